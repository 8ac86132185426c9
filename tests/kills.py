"""Disturbs every command that writes, and begins it again until it ends: ``make kill``.

    python tests/kills.py --kills 100 --seed 0 [--only fuse]

A command is killed (SIGKILL) at a moment drawn at random, or finds a full disk somewhere; then it is given again.
Nothing half-written may open as whole meanwhile, and the result must be that of a run that nothing happens to, byte for
byte but for times. Exit status 1 at any difference.

Processes are forked from one that has imported everything, since that takes longer than the commands. The disk is one
of memory (tmpfs) of a user's own namespace, where the system gives one; else files have a greatest size instead.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NoReturn

import torch
import yaml

from jam.api.loading import load, load_codec
from jam.cli import main
from jam.data import Shards
from jam.demo.setup import PARENTS
from jam.documents import read_documents, write_documents
from jam.files import read_json
from jam.training import checkpoint
from jam.tutorials.corpora import captioned_pictures
from support import pictures

DISK = 600  # MB
DOCUMENTS, RECORDS = 150, 3000  # that prepare and convert-documents read
QUESTION = "How do I draw a red house?"
TRAINING = """
--steps 5 --warmup-steps 1 --context 256 --batch-tokens 256 --micro-batch-size 1 --lr 1e-3 --validate-every 2
--validation-documents 2 --checkpoint-every 1 --keep-checkpoints 2 --device cpu --resume
"""


@dataclass
class Command:
    """A command that writes.

    Args:
        arguments: the command line; it writes into the folder where it is run.
        result: what it makes there; with this the run is done.
        check: raises for what is half-written; called with the folder after every disturbance.
        compared: files below the folder that must be the same as in an undisturbed run, as patterns.
        needs: commands whose results it reads, in `inputs`.
    """

    arguments: list[str]
    result: str
    check: Callable[[Path], None]
    compared: tuple[str, ...]
    needs: tuple[str, ...] = ()
    seconds: float = field(default=0.0, init=False)  # of the undisturbed run
    whole: dict[str, bytes] = field(default_factory=dict, init=False)  # what that made

    def is_done(self, here: Path) -> bool:
        return (here / self.result).exists()

    def found(self, here: Path) -> dict[str, bytes]:
        """The files that are compared, without times."""
        names = {path for pattern in self.compared for path in here.glob(pattern)}
        return {str(path.relative_to(here)): _timeless(path) for path in sorted(names) if path.is_file()}


def _timeless(path: Path) -> bytes:
    if path.name != "metrics.jsonl":
        return path.read_bytes()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return "\n".join(json.dumps({**record, "seconds": 0}) for record in records).encode()


# --- the commands -----------------------------------------------------------------------------------------------------


def commands(inputs: Path) -> dict[str, Command]:
    """All of them, by name, each behind those that it needs."""
    model, shards, run = str(inputs / "fused"), str(inputs / "shards"), str(inputs / "run")
    sources = json.dumps([{"path": shards}])
    train = ["--model", model, "--sources", sources, "--validation", json.dumps([shards]), *TRAINING.split()]
    page = ["--max-new-tokens", "100", "--min-images", "1", "--seed", "1", "--device", "cpu"]
    tokenizer = [str(inputs / "tokenizer.yaml"), "--out", "tokenizer", "--resume"]
    text = ["--text", str(PARENTS / "text"), "--image", str(PARENTS / "image")]
    records = [str(inputs / "records.jsonl"), "--recipe", "text"]
    return {
        "fuse": Command(
            ["fuse", *text, "--out", "fused", "--shard-mb", "1"],
            "fused/config.json",
            opens_as_model("fused"),
            ("fused/**/*",),
        ),
        "prepare": Command(
            ["prepare", str(inputs / "documents.jsonl"), "--model", model, "--out", "shards", "--device", "cpu"],
            "shards",
            opens_as_shards,
            ("shards/*",),
            ("fuse",),
        ),
        "train": Command(
            ["train", *train, "--out", "run"],
            "run/model",
            lambda here: (opens_as_model("run/model")(here), whole_checkpoints(here / "run"))[0],
            ("run/model/**/*", "run/metrics.jsonl"),
            ("fuse", "prepare"),
        ),
        "export": Command(
            ["export", run, "--out", "exported"],
            "exported",
            opens_as_model("exported"),
            ("exported/**/*",),
            ("fuse", "prepare", "train"),
        ),
        "train-tokenizer": Command(
            ["train-tokenizer", *tokenizer],
            "tokenizer/image_tokenizer",
            lambda here: whole_checkpoints(here / "tokenizer"),
            ("tokenizer/image_tokenizer/*", "tokenizer/metrics.jsonl", "tokenizer/reconstructions/*"),
        ),
        "convert-documents": Command(
            ["convert-documents", *records, "--out", "texts.jsonl"], "texts.jsonl", opens_as_documents, ("texts.jsonl",)
        ),
        "generate": Command(
            ["generate", model, QUESTION, "--out", "page.html", *page],
            "page.html",
            is_a_page,
            ("page.html",),
            ("fuse",),
        ),
        "generate-markdown": Command(
            ["generate", model, QUESTION, "--out", "page.md", *page],
            "page.md",
            lambda here: None,
            ("page.md", "page_images/*"),
            ("fuse",),
        ),
    }


MADE = {"fuse": "fused", "prepare": "shards", "train": "run"}  # what others need of it


def make_inputs(inputs: Path) -> None:
    inputs.mkdir()
    write_documents(inputs / "documents.jsonl", islice(captioned_pictures(3), DOCUMENTS))
    with (inputs / "records.jsonl").open("w") as lines:
        for number in range(RECORDS):
            lines.write(json.dumps({"id": number, "text": f"Number {number} draws a house. " * 8}) + "\n")
    recipe = pictures.recipe(pictures.folder(inputs / "pictures"), Path("tokenizer"), validate_every=3)
    values = {name: value for name, value in vars(recipe).items() if name not in ("resume", "sources", "out")}
    values |= {"sources": [{"path": str(inputs / "pictures")}], "checkpoint_every": 1, "keep_checkpoints": 2}
    (inputs / "tokenizer.yaml").write_text(yaml.safe_dump(values))


def opens_as_model(name: str) -> Callable[[Path], None]:
    """A folder with this name is no model yet, or a whole one."""

    def check(here: Path) -> None:
        if (here / name / "config.json").exists():
            load(here / name, "cpu", check=True)

    return check


def opens_as_shards(here: Path) -> None:
    if (here / "shards").exists():
        assert read_json(here / "shards" / "shards.json")["documents"] == DOCUMENTS
        Shards(here / "shards", load_codec(here.parent / "inputs" / "fused", "cpu").vocabulary).check()


def opens_as_documents(here: Path) -> None:
    if (here / "texts.jsonl").exists():
        assert sum(1 for _ in read_documents(here / "texts.jsonl")) == RECORDS


def is_a_page(here: Path) -> None:
    """The old one, or a new one to its end."""
    if (here / "page.html").exists():
        assert (here / "page.html").read_text().endswith("</body></html>\n")


def whole_checkpoints(run: Path) -> None:
    for one in checkpoint.checkpoints(run):
        checkpoint.require_whole(one, checkpoint.read_state(one))
    records = run / "metrics.jsonl"
    for line in records.read_text().splitlines()[:-1] if records.exists() else []:
        json.loads(line)


# --- disturbances -----------------------------------------------------------------------------------------------------


class Process:
    """A command that runs in the folder `here`; `limit`: most bytes of a file."""

    def __init__(self, arguments: list[str], here: Path, limit: int | None = None) -> None:
        self._said, says = os.pipe()
        fcntl.fcntl(says, fcntl.F_SETPIPE_SZ, 2**20)  # nobody reads before the end
        self.id = os.fork()
        if not self.id:
            _run(arguments, here, limit, says)
        os.close(says)

    def end(self) -> tuple[int, str]:
        """Exit status, and what it said."""
        status = os.waitstatus_to_exitcode(os.waitpid(self.id, 0)[1])
        with os.fdopen(self._said, errors="replace") as said:
            return status, said.read().strip()[-2000:]


def _run(arguments: list[str], here: Path, limit: int | None, says: int) -> NoReturn:
    status = 99
    try:
        os.chdir(here)
        for stream in (1, 2):
            os.dup2(says, stream)
        sys.stdout = sys.stderr = os.fdopen(says, "w", buffering=1)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        status = main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def run_to_end(command: Command, here: Path) -> None:
    status, said = Process(command.arguments, here).end()
    assert status == 0, f"exit status {status}: {said}"


def kill(command: Command, here: Path, rng: random.Random) -> str:
    """SIGKILL at a random moment; what came of it."""
    process, started = Process(command.arguments, here), time.monotonic()
    moment = started + rng.random() * command.seconds
    while time.monotonic() < moment:
        if os.waitid(os.P_PID, process.id, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            command.seconds = time.monotonic() - started  # it is faster than the undisturbed run was
            break
        time.sleep(0.002)
    os.kill(process.id, signal.SIGKILL)
    return "killed" if process.end()[0] == -signal.SIGKILL else "had ended"


def fill_disk(command: Command, here: Path, rng: random.Random) -> str:
    """A disk with room for a part of the result, or files that may not be larger than that."""
    sizes = [len(content) for content in command.whole.values()]
    ballast, limit = here.parent / "ballast", None
    if os.path.ismount(here.parent):
        room = int(rng.random() * 1.2 * sum(sizes)) + 1
        left = shutil.disk_usage(here).free - room
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, left))
    else:
        limit = int(rng.random() * max(sizes)) + 1
    try:
        status, said = Process(command.arguments, here, limit).end()
    finally:
        ballast.unlink(missing_ok=True)
    told = status == 1 and "the disk is full" in said and "Traceback" not in said
    assert status == 0 or told or limit is not None, f"a full disk: exit status {status}: {said}"
    return "had room" if status == 0 else "full"


# --- the whole --------------------------------------------------------------------------------------------------------


def undisturbed(name: str, command: Command, here: Path, inputs: Path) -> None:
    """What the others are compared with."""
    started = time.monotonic()
    here.mkdir()
    run_to_end(command, here)
    command.seconds, command.whole = time.monotonic() - started, command.found(here)
    assert command.whole, f"{name} made nothing"
    if name in MADE:
        (here / MADE[name]).rename(inputs / MADE[name])
    shutil.rmtree(here)


def disturbed(command: Command, here: Path, rng: random.Random, most: int, outcomes: Counter[str]) -> int:
    """One run that is disturbed up to `most` times, and compared; how often it was."""
    here.mkdir()
    times = 0
    while times < most and not (times and command.is_done(here)):
        disturb = fill_disk if rng.random() < 0.3 else kill
        outcomes[disturb(command, here, rng)] += 1
        times += 1
        command.check(here)
    if not command.is_done(here):
        run_to_end(command, here)
    command.check(here)
    found = command.found(here)
    different = [one for one in command.whole.keys() | found.keys() if command.whole.get(one) != found.get(one)]
    assert not different, f"not as in an undisturbed run: {', '.join(sorted(different))}"
    shutil.rmtree(here)
    return times


def kill_all(work: Path, kills: int, seed: int, only: list[str], say: Callable[[str], None] = print) -> int:
    """Disturb the commands `kills` times in all; how many differences there were."""
    inputs, here, rng = work / "inputs", work / "here", random.Random(seed)
    make_inputs(inputs)
    known = commands(inputs)
    chosen = only or list(known)
    for name, command in known.items():
        if name in chosen or any(name in known[other].needs for other in chosen):
            undisturbed(name, command, here, inputs)
            say(f"{name}: {len(command.whole)} files, {command.seconds:.1f} s undisturbed")
    outcomes: dict[str, Counter[str]] = {name: Counter() for name in chosen}
    wrong = done = number = 0
    while done < kills:
        name = chosen[number % len(chosen)]
        number += 1
        try:
            times = disturbed(known[name], here, rng, min(rng.randint(1, 3), kills - done), outcomes[name])
        except Exception as error:
            wrong, times = wrong + 1, 1
            say(f"{name}: {type(error).__name__}: {error}")
            here.rename(work / f"wrong-{number}")
        done += times
        say(f"{done} of {kills}: {name}")
    for name, counts in outcomes.items():
        say(f"{name}: {', '.join(f'{count} {outcome}' for outcome, count in sorted(counts.items())) or 'nothing'}")
    say(f"{done} disturbances, {wrong} differences")
    return wrong


def in_own_namespace(arguments: list[str]) -> int | None:
    """Run this with a disk of its own; None where the system gives none."""
    with tempfile.TemporaryDirectory(prefix="jam-kill-") as work:
        mount = f'mount -t tmpfs -o size={DISK}m none "$0"'
        space = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
        try:
            subprocess.run([*space, mount, work], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        command = [sys.executable, __file__, *arguments, "--work", work]
        return subprocess.run([*space, f'{mount} && exec "$@"', work, *command]).returncode


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description="Kill commands at random moments, and compare what they make at last.")
    made.add_argument("--kills", type=int, default=100, help="disturbances in all; default: 100")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--only", action="append", default=[], help="a command; may be given several times")
    made.add_argument("--work", type=Path, help="an empty folder to work in; default: a disk of memory")
    return made


if __name__ == "__main__":
    settings = parser().parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    torch.set_num_threads(1)
    if settings.work is None and (status := in_own_namespace(sys.argv[1:])) is not None:
        raise SystemExit(status)
    with tempfile.TemporaryDirectory(prefix="jam-kill-") as folder:
        place = settings.work or Path(folder)
        raise SystemExit(
            bool(kill_all(place, settings.kills, settings.seed, settings.only, lambda line: print(line, flush=True)))
        )
