"""Which checkpoints stay, what a full disk and a kill leave of them, and that the first process decides for all."""

from __future__ import annotations

import json

import pytest

from jam.training import checkpoint
from jam.training.checkpoint import Rule, checkpoints, read_state
from jam.training.distributed import World
from support.runs import trainer, write_corpora


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_corpora(tmp_path_factory.mktemp("data"))


def test_which_checkpoints_stay():
    states = [{"ends_epoch": number % 3 == 0, "validation": float(abs(number - 2))} for number in range(8)]
    assert Rule(last=0).superfluous(states) == []
    assert Rule(last=2).superfluous(states) == [0, 1, 2, 3, 4, 5]
    assert Rule(last=2, epochs=True).superfluous(states) == [1, 2, 4, 5]
    assert Rule(last=2, best=True).superfluous(states) == [0, 1, 3, 4, 5]
    assert Rule(last=9).superfluous(states) == []
    assert Rule(last=1, best=True).superfluous([{"validation": None}] * 3) == [0, 1]


def test_checkpoints_are_in_the_order_of_their_steps(tmp_path):
    for step in (999_999, 1_000_000, 12):
        (tmp_path / "checkpoints" / f"step-{step:06d}").mkdir(parents=True)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000012", "step-999999", "step-1000000"]


def test_the_best_checkpoint_and_those_of_epochs_stay(shards, tmp_path, monkeypatch):
    perplexities = iter([5.0, 3.0, 4.0, 6.0, 7.0, 8.0])
    options = {"validate_every": 1, "keep_checkpoints": 1, "checkpoint_every": 3, "keep_best": True}
    made = trainer(shards, tmp_path / "run", **options)
    monkeypatch.setattr(made, "validate", lambda: {"all_ppl": next(perplexities)})
    list(made.train())
    found = checkpoints(made.run)
    assert [(path.name, read_state(path)["validation"]) for path in found] == [("step-000002", 3.0), ("step-000006", 8)]
    made = trainer(shards, tmp_path / "epochs", steps=None, epochs=2, keep_checkpoints=1, keep_epochs=True)
    made.config.checkpoint_every = "epoch"
    list(made.train())
    assert len(checkpoints(made.run)) == 2
    with pytest.raises(ValueError, match="keep_best needs validation and validate_every"):
        trainer(shards, tmp_path / "none", keep_best=True)


def test_too_little_room_is_said_before_anything_is_written(shards, tmp_path, monkeypatch):
    made = trainer(shards, tmp_path / "run", checkpoint_every=2)
    steps = made.train()
    for _ in range(3):
        next(steps)
    made.checkpoints.settle(wait=True)
    monkeypatch.setattr(checkpoint, "free_bytes", lambda path: 1000)
    with pytest.raises(
        ValueError, match=r"the disk is full: cannot write .*000004: .*MB needed.*last checkpoint is .*2"
    ):
        next(steps), next(steps)
    monkeypatch.undo()
    assert [path.name for path in (made.run / "checkpoints").iterdir()] == ["step-000002"]
    assert next(trainer(shards, tmp_path / "run", resume=True).train()).step == 3


def test_what_a_kill_left_is_removed(shards, tmp_path):
    run = tmp_path / "run"
    next(steps := trainer(shards, run).train())
    steps.close()
    for left in (run / "checkpoints" / ".step-000003.partial", run / ".model.partial-17"):
        (left / "inside").mkdir(parents=True)
    (run / "metrics.jsonl").open("a").write('{"step": 2, "lo')
    list(trainer(shards, run, resume=True).train())
    assert not list(run.rglob("*.partial*"))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]


class Second(World):
    """A process beside the first one, whose part is played here."""

    def __init__(self, says):
        super().__init__(rank=1)
        self.__dict__["says"] = iter(says)

    def of_first(self, value):
        return next(self.says)


def test_the_first_process_decides_for_all(shards, tmp_path, monkeypatch):
    """What it finds in the folder of the run, which others may see later."""
    made = trainer(shards, tmp_path / "run", validate_every=1, keep_best=True)
    made.step = 1
    monkeypatch.setattr(made, "validate", lambda: {"all_ppl": 3.0})
    monkeypatch.setattr(made, "world", Second([(False, None), (True, None)]))
    assert [made._validate_if_due() for _ in range(2)] == [False, True]
    monkeypatch.setattr(made.folder, "world", Second([(None, ValueError("run exists"))]))
    with pytest.raises(ValueError, match="run exists"):
        next(made.train())
