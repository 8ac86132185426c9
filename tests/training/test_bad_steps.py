"""A step whose loss is no number, or jumps: the run stops and names the documents, or goes on without the step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from jam.training import trainer as trainer_module
from jam.training.checkpoint import checkpoints, read_state
from jam.training.watch import Watch
from support import faults
from support.runs import assert_same, config, trainer, weights, write_corpora


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_corpora(tmp_path_factory.mktemp("data"))


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
    faults.at_call(monkeypatch, made, "_set_lr", faults.raising(KeyboardInterrupt()), when=lambda: made.step == 2)
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
