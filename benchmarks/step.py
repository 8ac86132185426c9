"""The demo's training step as it was and as it is, on a quiet machine and beside a busy process.

    python benchmarks/step.py [--rounds 1] [--steps 2]

Before: `torch.optim.Muon`, which computes in bfloat16; one call of attention for every document; every operation
divided among all threads, which spin between two of them as OpenMP's library has it by default. After: the trainer as
it is. The model and the recipes are the demo's. Every measurement is a process of its own, before and after by turns;
the busy process counts for ever and does nothing. It prints tokens (no padding) per second, medians over the rounds of
the steps behind the first, and ratios. Where bfloat16 is emulated a step of before takes 15 seconds, beside the busy
process a minute: ten minutes in all.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jam  # it says how threads wait, before torch is imported

# isort: split
import torch
from rich.console import Console

from jam.api.training import make_trainer
from jam.demo.setup import fuse_parents, read_recipe, write_corpus
from jam.models.towers import attention
from jam.training import DataSource, TrainConfig, optimizers
from jam.training.allocator import keep_freed_blocks
from jam.waiting import VARIABLES

SOURCES = {"align": {"texts": 0.5, "captions": 0.5}, "instruct": {"tutorials": 0.9, "captions": 0.1}}
DOCUMENTS = {"texts": 200, "captions": 300, "tutorials": 300}
SPINS = "300000"  # of GNU's library where nothing is set


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2, help="that are timed, of each recipe")
    parser.add_argument("--side", choices=("before", "after"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps({recipe: round(measure(recipe, options)) for recipe in SOURCES}))
        return
    with tempfile.TemporaryDirectory() as name:
        options.folder = Path(name)
        prepare(options.folder)
        compare(options)


def prepare(folder: Path) -> None:
    console = Console(quiet=True)
    model = fuse_parents(folder / "fused", console, method="cross", every=2, readout="exact")
    for corpus, count in DOCUMENTS.items():
        write_corpus(corpus, count, model.codec, folder / corpus, console)


def compare(options: argparse.Namespace) -> None:
    print(f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}; tokens per second")
    found: dict[tuple[str, str, str], list[float]] = {}
    for _ in range(options.rounds):
        for where in ("quiet", "busy"):
            for side in ("before", "after"):
                with busy_process() if where == "busy" else nothing():
                    rates = in_process(side, options)
                print(f"{where:6} {side:7} {rates}", flush=True)
                for recipe, rate in rates.items():
                    found.setdefault((recipe, where, side), []).append(rate)
    for recipe in SOURCES:
        for where in ("quiet", "busy"):
            before, after = (statistics.median(found[recipe, where, side]) for side in ("before", "after"))
            print(f"{recipe:9} {where:6} before {before:6.0f}  after {after:6.0f}  {after / before:.2f} times")


def processor() -> str:
    path = Path("/proc/cpuinfo")
    names = [line for line in path.read_text().splitlines() if line.startswith("model name")] if path.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.machine()


@contextmanager
def busy_process() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def nothing() -> Iterator[None]:
    yield


def in_process(side: str, options: argparse.Namespace) -> dict[str, float]:
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    environment |= {"GOMP_SPINCOUNT": SPINS} if side == "before" else {}
    words = ["--side", side, "--folder", options.folder, "--steps", options.steps]
    command = [sys.executable, __file__, *map(str, words)]
    return json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout)


def measure(recipe: str, options: argparse.Namespace) -> float:
    """Tokens per second, the median of the steps behind the first."""
    if options.side == "before":
        optimizers.Muon = torch_muon  # type: ignore[assignment, misc]
        attention.groupby = lambda lengths: ((length, [length]) for length in lengths)  # type: ignore[attr-defined]
    model = jam.load(options.folder / "fused", device="cpu")
    sources = [DataSource(str(options.folder / name), weight) for name, weight in SOURCES[recipe].items()]
    with tempfile.TemporaryDirectory() as out:
        config = TrainConfig(model="", out=out, sources=sources, **read_recipe(recipe, {}))
        keep_freed_blocks()
        trainer = make_trainer(model, config)
        if options.side == "before":
            trainer.lanes = None
        trainer.model.train()
        reports = [trainer.train_step() for _ in range(1 + options.steps)]
    return statistics.median(report.tokens / report.seconds for report in reports[1:])


def torch_muon(params: list[dict[str, Any]], lr: float, weight_decay: float, momentum: float) -> torch.optim.Muon:
    settings: dict[str, Any] = {"momentum": momentum, "adjust_lr_fn": "match_rms_adamw"}
    return torch.optim.Muon(params, lr=lr, weight_decay=weight_decay, **settings)


if __name__ == "__main__":
    main()
