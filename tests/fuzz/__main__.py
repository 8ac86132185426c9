"""`python -m fuzz --minutes 2 --seed 0`: damaged files and odd calls, until the time is over."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jam  # noqa: F401  it says how threads wait, before torch is imported

# isort: split
import torch

from fuzz.outcomes import Outcome, judged, limit_memory
from fuzz.targets import Target

FAILED = Path("fuzz-failures")
RUNNING = FAILED / "running.txt"  # the case that ended this process, where one did
SAID = 20.0  # seconds between two lines of progress


def targets(home: Path) -> dict[str, Target]:
    from fuzz.checkpoints import Checkpoints
    from fuzz.documents import Documents
    from fuzz.recipes import Recipes
    from fuzz.requests import Requests
    from fuzz.training import Runs

    made: list[type[Target]] = [Documents, Recipes, Checkpoints, Runs, Requests]
    return {one.name: one(home) for one in made}


def try_case(target: Target, seed: int, number: int, place: Path) -> tuple[str, Outcome]:
    """One case in the new folder `place`: what was done, and what became of it."""
    place.mkdir()
    assert target.base.is_dir()
    case = target.case(random.Random(f"{seed}:{target.name}:{number}"), place)
    before = Path.cwd()
    os.chdir(place)  # where relative names lead
    try:
        return case.what, judged(case.call, case.names)
    finally:
        os.chdir(before)


def cases(chosen: Sequence[Target], only: int | None) -> Iterator[tuple[Target, int]]:
    if only is not None:
        yield chosen[0], only
        return
    number = 0
    while True:
        yield from ((target, number) for target in chosen)
        number += 1


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2, help="how long to go on")
    parser.add_argument("--seed", type=int, default=0, help="another seed makes other cases")
    parser.add_argument("--only", help="one target: documents, recipes, checkpoints, runs or requests")
    parser.add_argument("--case", help="run one case, as TARGET:NUMBER, and show what becomes of it")
    options = parser.parse_args(arguments)
    only, _, number = (options.case or options.only or "").partition(":")
    torch.set_num_threads(1)
    found: dict[str, str] = {}
    counts: Counter[tuple[str, str]] = Counter()
    FAILED.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as temporary:
        known = targets(Path(temporary) / "base")
        if only and only not in known:
            parser.error(f"there is no target {only!r}; known: {', '.join(known)}")
        (Path(temporary) / "base").mkdir()
        chosen = [known[only]] if only else list(known.values())
        for target in chosen:
            assert target.base.is_dir()
        limit_memory()
        end, said = time.monotonic() + 60 * options.minutes, time.monotonic()
        for target, count in cases(chosen, int(number) if number else None):
            if time.monotonic() > end:
                break
            name, place = f"{target.name}:{count}", Path(temporary) / "case"
            RUNNING.write_text(f"{name}, seed {options.seed}\n")
            what, outcome = try_case(target, options.seed, count, place)
            counts[target.name, outcome.kind] += 1
            if options.case:
                print(f"{name}: {what}\n{outcome.kind}: {outcome.text}")
            key = f"{target.name} {outcome.kind} {outcome.key}"
            if outcome.failed and key not in found:
                found[key] = name
                print(f"{outcome.kind}, {name} ({what})\n  {outcome.text.strip().splitlines()[-1][:300]}", flush=True)
                keep(name, options.seed, what, outcome, place)
            remove(place)
            if time.monotonic() - said > SAID:
                said = time.monotonic()
                print(f"{counts.total()} cases, {len(found)} kinds of failures", flush=True)
    RUNNING.unlink(missing_ok=True)
    for (target_name, kind), times in sorted(counts.items()):
        print(f"{target_name:>12} {kind:<14} {times}")
    kept = f"; they are kept in {FAILED}/" if found else ""
    print(f"{counts.total()} cases, {len(found)} kinds of failures{kept}")
    return int(bool(found))


def keep(name: str, seed: int, what: str, outcome: Outcome, place: Path) -> None:
    """The case's files, what was done, what became of it, and the call that does it again."""
    folder = FAILED / name.replace(":", "-")
    remove(folder)
    folder.mkdir(parents=True)
    again = f"python -m fuzz --seed {seed} --case {name}"
    (folder / "case.txt").write_text(f"{again}\n{what}\n{outcome.kind}: {outcome.text}\n")
    for path in place.rglob("*"):
        if path.is_file() and os.access(path, os.R_OK):
            (there := folder / path.relative_to(place)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, there)


def remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
