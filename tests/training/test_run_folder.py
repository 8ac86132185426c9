"""One process at a time trains a run, from checkpoints that are as they were written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from jam.tokenizer_training import TokenizerTrainer
from jam.training.checkpoint import checkpoints
from support import pictures
from support.runs import trainer, write_corpora

HOLDER = """
import sys
from pathlib import Path
from jam.checkpoints.locks import only_one
with only_one(Path(sys.argv[1]), Path("elsewhere")):
    print("held", flush=True)
    sys.stdin.read()
"""
Make = Callable[..., Any]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpora(tmp_path_factory.mktemp("data"))


@pytest.fixture(params=["train", "train-tokenizer"])
def make(request: pytest.FixtureRequest, shards: Path, tmp_path: Path) -> Make:
    """A trainer of the run ``run``."""
    if request.param == "train":
        return lambda name="run", **changes: trainer(shards, tmp_path / name, validation=[], **changes)
    source = pictures.folder(tmp_path / "pictures")
    return lambda name="run", **changes: TokenizerTrainer(pictures.recipe(source, tmp_path / name, **changes))


@contextmanager
def held(run: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process trains in this folder."""
    command = [sys.executable, "-c", HOLDER, str(run / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        yield process


def begin(made: Any, steps: int = 1) -> None:
    running = made.train()
    for _ in range(steps):
        next(running)
    running.close()


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("resume", [True, False])
def test_a_run_that_another_process_trains_is_left_alone(make: Make, tmp_path: Path, resume: bool) -> None:
    begin(make())
    before, made = content(tmp_path / "run"), make(resume=resume)
    with held(tmp_path / "run"), pytest.raises(ValueError, match=r"another process is making .*run; wait for it"):
        next(made.train())
    assert content(tmp_path / "run") == before
    assert next(make(resume=True).train()).step == 2


def test_a_run_that_another_process_has_just_begun_is_left_alone(make: Make, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    made = make()
    with held(tmp_path / "run"), pytest.raises(ValueError, match=r"another process is making .*run; wait for it"):
        next(made.train())
    assert list(content(tmp_path / "run")) == [".lock"]


@pytest.mark.parametrize("target", [None, "nothing", ".lock"])
def test_a_lock_that_is_no_file_is_named(make: Make, tmp_path: Path, target: str | None) -> None:
    """A folder, a link to nothing and one to itself."""
    (tmp_path / "run").mkdir()
    lock = tmp_path / "run" / ".lock"
    lock.mkdir() if target is None else lock.symlink_to(target)
    with pytest.raises(ValueError, match=r"run/.lock is no file to lock \(.*\); remove it"):
        next(make(resume=True).train())


def test_a_process_that_is_killed_holds_nothing(make: Make, tmp_path: Path) -> None:
    begin(make())
    with held(tmp_path / "run") as process:
        process.kill()
    assert next(make(resume=True).train()).step == 2


def test_the_first_of_two_goes_on_as_if_it_were_alone(make: Make, tmp_path: Path) -> None:
    losses = [report.loss for report in make("whole").train()]
    steps = make(checkpoint_every=1).train()
    seen = [next(steps).loss, next(steps).loss]
    with pytest.raises(ValueError, match=r"another process is making .*run; wait for it"):
        next(make(resume=True).train())
    assert seen + [report.loss for report in steps] == losses
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["loss"] for record in records if "loss" in record] == losses


def test_a_run_without_a_checkpoint_is_begun_anew_by_resume_alone(make: Make, tmp_path: Path) -> None:
    made = make()
    made.save_checkpoint = lambda *_, **__: None
    begin(made)
    assert not checkpoints(tmp_path / "run")
    with pytest.raises(ValueError, match="run exists; choose another --out or remove it"):
        next(make().train())
    assert next(make(resume=True).train()).step == 1


@pytest.mark.parametrize("damage", ["flipped", pytest.param("cut", marks=pytest.mark.slow), "gone"])
def test_a_damaged_checkpoint_is_named(make: Make, tmp_path: Path, damage: str) -> None:
    """And the one before it does, once it is removed."""
    begin(make(checkpoint_every=1, keep_checkpoints=0), 2)
    first, last = checkpoints(tmp_path / "run")
    path = next(path for path in last.iterdir() if path.suffix in (".distcp", ".safetensors"))
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(whole[:-1] + (bytes([whole[-1] ^ 1]) if damage == "flipped" else b""))
    with pytest.raises(ValueError, match=rf"{last} is damaged: {path.name}.*: not as run.json says .*; remove {last}"):
        next(make(resume=True).train())
    last.rename(tmp_path / "aside")
    assert next(make(resume=True).train()).step == 2 and first.name == "step-000001"


def test_a_changed_state_is_named(make: Make, tmp_path: Path) -> None:
    begin(make())
    (last,) = checkpoints(tmp_path / "run")
    state = json.loads((last / "run.json").read_text())
    (last / "run.json").write_text(json.dumps(state | {"step": 0}))
    with pytest.raises(ValueError, match=r"run.json is not as it was written: .*; remove .*step-000001"):
        next(make(resume=True).train())
