"""Runs that survive: bad steps, full disks, which checkpoints stay, other recipes, exports."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import jam
from jam.api.exporting import find_checkpoint
from jam.cli import main
from jam.training import DataSource, Trainer, checkpoint
from jam.training import trainer as trainer_module
from jam.training.checkpoint import Rule, checkpoints, read_state
from jam.training.distributed import World
from jam.training.parts import merged, whole_tensors
from jam.training.records import Records
from jam.training.watch import Watch
from support import tiny
from support.encoded import random_encoded
from support.encoded import write_shards as write_other_shards
from support.runs import assert_same, config, trainer, weights, write_corpora


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_corpora(tmp_path_factory.mktemp("data"))


# --- bad steps --------------------------------------------------------------------------------------------------------


def spoil(made, monkeypatch, step, factor):
    """The loss of a step (counted from 0) is multiplied by `factor`."""
    exact = trainer_module.weighted_loss

    def spoilt(*arguments):
        loss, scores = exact(*arguments)
        return loss * (factor if made.step == step else 1.0), scores

    monkeypatch.setattr(trainer_module, "weighted_loss", spoilt)


@pytest.mark.parametrize(("factor", "what"), [(float("nan"), "loss nan"), (50.0, "is more than 2 times")])
def test_a_bad_step_stops_the_run_and_names_its_documents(shards, tmp_path, monkeypatch, factor, what):
    made = trainer(shards, tmp_path / "run", steps=12, spike=2.0, checkpoint_every=4)
    spoil(made, monkeypatch, 9, factor)
    with pytest.raises(ValueError, match=rf"after step 9: .*{what}.*; its batch: {shards}/train \d+, .*on_bad_step"):
        list(made.train())
    assert [path.name for path in checkpoints(made.run)] == ["step-000004", "step-000008"]


@pytest.mark.parametrize("factor", [float("nan"), 50.0])
def test_a_bad_step_is_skipped(shards, tmp_path, monkeypatch, factor):
    made = trainer(shards, tmp_path / "run", steps=12, spike=2.0, on_bad_step="skip")
    spoil(made, monkeypatch, 9, factor)
    seen = []
    for report in made.train():
        seen.append(weights(made))
        assert (report.problem is not None) == (report.step == 10)
    assert_same(seen[9], seen[8])
    assert not torch.equal(next(iter(seen[10].values())), next(iter(seen[9].values())))
    lines = [json.loads(line) for line in (made.run / "metrics.jsonl").read_text().splitlines()]
    assert "skipped" in lines[9]["problem"]


@pytest.mark.parametrize("factor", [1.0, float("nan")])
def test_an_interrupt_before_the_update_leaves_the_losses_of_whole_steps(shards, tmp_path, monkeypatch, factor):
    """Of a step that is lost, neither its loss is kept nor that it was skipped."""
    made = trainer(shards, tmp_path / "run", on_bad_step="skip")
    spoil(made, monkeypatch, 2, factor)
    exact = made._set_lr

    def interrupted():
        if made.step == 2:
            raise KeyboardInterrupt
        return exact()

    monkeypatch.setattr(made, "_set_lr", interrupted)
    losses = []
    with pytest.raises(KeyboardInterrupt):
        for report in made.train():
            losses.append(report.loss)
    state = read_state(checkpoints(made.run)[-1])
    assert (state["step"], state["watch"]) == (2, {"recent": losses, "skipped": 0})


def test_what_is_wrong_with_a_step():
    watch = Watch(tiny_config(spike=3.0, on_bad_step="skip"))
    assert watch.problem(float("inf"), 1.0) and watch.problem(1.0, float("nan"))
    for _ in range(8):
        assert watch.problem(1.0, 1.0) is None
        watch.count(1.0, None)
    assert watch.problem(3.1, 1.0) and not watch.problem(2.9, 1.0)
    other = Watch(watch.config)
    other.load_state(json.loads(json.dumps(watch.state())))
    assert list(other.recent) == list(watch.recent)
    for _ in range(10):
        assert "and 12 more; skipped" in watch.report(5, "loss nan", [f"d {n}" for n in range(20)])
        watch.count(float("nan"), "loss nan")
    with pytest.raises(ValueError, match="10 steps were skipped before it"):
        watch.report(5, "loss nan", ["d 1"])
    assert not Watch(tiny_config()).problem(1e9, 1.0)


def tiny_config(**changes):
    return config(Path("shards"), Path("run"), validation=[], **changes)


# --- checkpoints ------------------------------------------------------------------------------------------------------


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


def test_only_the_first_process_writes_records():
    Records(None, 0).write({"step": 1})


# --- other recipes and data -------------------------------------------------------------------------------------------


def test_resuming_with_another_recipe_lists_the_differences(shards, tmp_path):
    next(steps := trainer(shards, tmp_path / "run").train())
    steps.close()
    changes = {"lr": 1e-4, "train": "cross", "batch_tokens": 128, "sources": [DataSource(str(shards / "held"))]}
    with pytest.raises(ValueError, match="is of another recipe: ") as error:
        next(trainer(shards, tmp_path / "run", resume=True, **changes).train())
    message = str(error.value)
    for part in ("lr was 0.003 and is 0.0001", "train was all and is cross", "batch_tokens was 256 and is 128"):
        assert part in message
    assert "pieces was [" in message and "seed" not in message
    free = {"keep_checkpoints": 5, "checkpoint_every": 1, "validate_every": 1, "on_bad_step": "skip"}
    assert next(trainer(shards, tmp_path / "run", resume=True, **free).train()).step == 2


def test_a_source_that_is_not_there(shards, tmp_path):
    for where in ({"sources": [DataSource("nowhere/shards")]}, {"validation": ["nowhere/shards"]}):
        message = r"nowhere/shards: there is no such folder of token shards; make them with `jam prepare"
        with pytest.raises(ValueError, match=message):
            trainer(shards, tmp_path / "run", **where)


def test_a_source_of_another_vocabulary(shards, tmp_path):
    rng = np.random.default_rng(0)
    write_other_shards(tmp_path / "other", [random_encoded(rng) for _ in range(5)])
    with pytest.raises(ValueError, match=r"other: prepared for vocabulary \w+, the model has \w+; run `jam prepare`"):
        trainer(shards, tmp_path / "run", sources=[DataSource(str(tmp_path / "other"))])


# --- exports ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "choice", "tied"),
    [
        pytest.param("cross", "all", False, marks=pytest.mark.slow),
        ("cross", "lora", True),
        ("single", "lora", False),
        ("single", "all", True),
    ],
)
def test_a_checkpoint_is_exported_as_a_model(shards, tmp_path, kind, choice, tied):
    """Of a run that has not ended: equal to the model that the run would have saved there."""
    base, run = tmp_path / "base", tmp_path / "run"
    base.mkdir()
    tiny.model(tmp_path / "made", kind, tied=tied).save(base)
    settings = config(shards, run, model=str(base), train=choice, checkpoint_every=2, lr=1e-2)
    model = jam.load(base)
    made = Trainer(model.joint, settings, model.save)
    for report in made.train():
        if report.step == 3:
            break
    for options, name in (([], "last"), (["--step", "2"], "second")):
        assert main(["export", str(run), "--out", str(tmp_path / name), *options]) == 0
    last, second = (jam.load(tmp_path / name) for name in ("last", "second"))
    assert last.manifest.stage == "aligned" and type(last.joint) is type(jam.load(base).joint)
    (tmp_path / "now").mkdir()
    model.save(tmp_path / "now", "aligned", merged(whole_tensors(made.model), settings))
    assert_same(last.joint.state_dict(), jam.load(tmp_path / "now").joint.state_dict())
    assert any(not torch.equal(value, second.joint.state_dict()[key]) for key, value in last.joint.state_dict().items())
    with pytest.raises(ValueError, match="has no checkpoint of step 7; there are 2, 3"):
        find_checkpoint(run, 7)
    assert main(["export", str(tmp_path), "--out", str(tmp_path / "x")]) == 1
