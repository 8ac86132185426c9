"""Loading a model folder: without comparing checksums, as it is, and with those of the weights (`check=True`).

python benchmarks/loading.py FOLDER [--runs 7]

By turns whose order turns, too, in one process, from the page cache. It prints medians, ratios to loading without a
comparison (aim: 1.05 or less for loading as it is), and what the comparison takes alone, since loading varies by more.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from unittest.mock import patch

import jam
from jam.checkpoints import Manifest


def seconds(folder: Path, compares: bool, check: bool) -> float:
    started = time.perf_counter()
    if compares:
        jam.load(folder, device="cpu", check=check)
    else:
        with patch.object(Manifest, "require_unchanged", lambda *_, **__: None):
            jam.load(folder, device="cpu")
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=7)
    chosen = parser.parse_args()
    ways = {"nothing compared": (False, False), "as it is": (True, False), "check=True": (True, True)}
    times: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for run in range(chosen.runs + 1):
        first = run % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(seconds(chosen.folder, *ways[name]))
    medians = {name: statistics.median(taken[1:]) for name, taken in times.items()}
    manifest, alone = Manifest.load(chosen.folder), []
    for _ in range(chosen.runs):
        started = time.perf_counter()
        manifest.require_unchanged(chosen.folder)
        alone.append(time.perf_counter() - started)
    size = sum(path.stat().st_size for path in chosen.folder.rglob("*") if path.is_file())
    print(f"{chosen.folder}: {size / 1e6:.0f} MB")
    for name, median in medians.items():
        print(f"{name:<18} {median:6.3f} s   {median / medians['nothing compared']:.3f} times")
    print(f"the comparison alone: {1e3 * statistics.median(alone):.1f} ms")


if __name__ == "__main__":
    main()
