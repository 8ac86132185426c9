"""A run that ends by an error: what was written wholly stays, the first error is told, no process waits for another."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from jam.training import checkpoint
from jam.training.checkpoint import checkpoints
from support import faults, ranks
from support.runs import trainer, write_corpora


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpora(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two processes."""
    return ranks.results(tmp_path_factory.mktemp("ends"), ranks.ends)


@pytest.mark.parametrize(
    ("name", "failed", "error"),
    [("second", 1, "a shard is gone"), ("full", 0, "the disk is full: .*000002")],
)
def test_one_of_two_processes_fails(ends: Path, name: str, failed: int, error: str) -> None:
    """Both end, the one that failed says why, and the checkpoint that was being written then is there."""
    assert torch.load(ends / f"{name}.pt") == [0, 0]
    kinds, messages = zip(*(torch.load(ends / f"{name}-{rank}.pt") for rank in (0, 1)), strict=True)
    assert kinds[1 - failed] == "RuntimeError", messages  # the connection to the other one is gone
    assert re.search(error, messages[failed])
    assert [path.name for path in (ends / name / "checkpoints").iterdir()] == ["step-000002"]
    resumed = trainer(ends / "shards", ends / name, batch_tokens=5 * 64, micro_batch_size=1, validation=[], resume=True)
    assert next(resumed.train()).step == 3


def failing(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step 3 fails, and the checkpoint of step 2 is not looked at before."""
    error = faults.raising(ZeroDivisionError("in the step"))
    faults.at_call(monkeypatch, made, "_loss", error, when=lambda batch: made.step == 2)
    faults.name_late(monkeypatch, made)


def test_one_process_fails(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = trainer(shards, tmp_path / "run", checkpoint_every=1, keep_checkpoints=1)
    failing(made, monkeypatch)
    with pytest.raises(ZeroDivisionError, match="in the step"):
        list(made.train())
    assert [path.name for path in (made.run / "checkpoints").iterdir()] == ["step-000002"]


def test_the_first_error_is_told(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of the checkpoint, which fails too, and of which nothing stays."""
    made = trainer(shards, tmp_path / "run", checkpoint_every=2)
    failing(made, monkeypatch)
    monkeypatch.setattr(checkpoint, "sync", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError, match="in the step"):
        list(made.train())
    assert not list((made.run / "checkpoints").iterdir())


def test_a_checkpoint_gets_its_name_while_a_step_hangs(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trainer(shards, tmp_path / "run", checkpoint_every=2)
    steps = made.train()
    for _ in range(2):
        next(steps)
    made.save_checkpoint()
    monkeypatch.setattr(made.checkpoints, "settle", lambda wait=False: pytest.fail("nobody asks"))
    made.checkpoints._pending.named.result(timeout=60)
    assert [path.name for path in checkpoints(made.run)] == ["step-000002"]
    monkeypatch.undo()
    steps.close()


def test_a_file_that_cannot_be_written_is_named(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of the process, and not the wrapper of all processes' errors."""

    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied", "somewhere")

    made = trainer(shards, tmp_path / "run", checkpoint_every=2)
    monkeypatch.setattr(checkpoint.dcp.FileSystemWriter, "write_data", refuse)
    with pytest.raises(PermissionError, match="Permission denied: 'somewhere'"):
        list(made.train())
    assert not list((made.run / "checkpoints").iterdir())
