"""Time of the grammar and of making a training example, a document of 300 ids, on one core.

python benchmarks/examples.py [--runs 200]

Prints the median and the best. Aims: the grammar's states in 0.15 ms, an example with masked spans in 1 ms.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np

from jam import cm3
from jam.codec import Encoded
from jam.data import Objective, make_example
from jam.grammar import Grammar
from jam.vocabulary import Vocabulary


def measure(name: str, call: Callable[[], object], runs: int, aim_ms: float) -> None:
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - started))
    print(f"{name:<24} median {statistics.median(times):.3f} ms   best {min(times):.3f} ms   aim {aim_ms} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    runs = parser.parse_args().runs
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
    grammar = Grammar(Vocabulary(5000, 1000, 0), (8, 8))
    picture = [grammar.vocabulary.break_id, *range(5000, 5064), grammar.vocabulary.break_id]
    ids = [0, *([7] * 9 + picture) * 4, 7, 0]
    masked = cm3.mask(ids, [(2, 5), (20, 40)], grammar.vocabulary)
    measure("states of the grammar", lambda: grammar.state_array(masked), runs, 0.15)
    rng = np.random.default_rng(0)
    encoded = Encoded.of(ids, grammar.vocabulary)
    measure("a training example", lambda: make_example(encoded, grammar, Objective(), rng, 512), runs, 1.0)


if __name__ == "__main__":
    main()
