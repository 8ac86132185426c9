"""Rows of a micro-batch by several threads: the same step, exactly repeatable, where it can be had."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jam.training import lanes
from jam.training.lanes import Lanes, make_lanes
from support.runs import assert_same, trainer, weights, write_corpora

CHANGES = {"micro_batch_size": 3, "batch_tokens": 6 * 64, "z_loss": 1e-3}  # two micro-batches of uneven parts


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpora(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize("changes", [{"optimizer": "muon"}, {"train": "cross"}, {"kind": "single"}])
def test_lanes_take_the_step_of_one(shards, tmp_path, two_threads, changes) -> None:
    divided = trainer(shards, tmp_path / "divided", **CHANGES | changes)
    whole = trainer(shards, tmp_path / "whole", **CHANGES | changes)
    assert divided.lanes is not None and divided.lanes.count == 2
    whole.lanes = None
    for _ in range(2):
        one, other = (made.train_step().record() for made in (divided, whole))
        assert one.keys() == other.keys()
        for name in one.keys() - {"seconds", "problem"}:
            assert one[name] == pytest.approx(other[name], rel=1e-4), name
    assert torch.get_num_threads() == 2
    second = weights(whole)
    for name, value in weights(divided).items():
        torch.testing.assert_close(value, second[name], rtol=1e-3, atol=1e-4)


def test_a_run_on_lanes_is_repeated_and_resumed_to_the_last_bit(shards, tmp_path, two_threads) -> None:
    whole, stopped = (trainer(shards, tmp_path / name, **CHANGES) for name in ("whole", "stopped"))
    losses = [report.loss for report in whole.train()]
    steps = stopped.train()
    assert [next(steps).loss for _ in range(3)] == losses[:3]
    steps.close()
    resumed = trainer(shards, tmp_path / "stopped", resume=True, **CHANGES)
    assert [report.loss for report in resumed.train()] == losses[3:]
    assert_same(weights(whole), weights(resumed))


def test_there_are_none_where_they_would_change_or_cost_something(shards, tmp_path, two_threads, monkeypatch) -> None:
    def of(name: str, **changes) -> Lanes | None:
        return trainer(shards, tmp_path / name, **changes).lanes

    assert of("plain") is not None
    assert of("dropout", parent={"dropout": 0.1}) is None
    assert of("adapters", train="lora", lora_rank=4, lora_dropout=0.1) is None
    assert of("compiled", compile=True) is None
    assert of("row", micro_batch_size=1) is None
    monkeypatch.setattr(lanes, "MOST_GRADIENTS", 1000)
    assert of("large") is None
    monkeypatch.undo()
    torch.set_num_threads(1)
    assert of("thread") is None


def test_asking_for_lanes_leaves_the_model_alone(shards, tmp_path, two_threads) -> None:
    made = trainer(shards, tmp_path / "run", parent={"dropout": 0.1})
    made.model.eval()
    before, state = weights(made), torch.get_rng_state()
    assert make_lanes(made.model, torch.device("cpu"), 4) is None
    assert torch.equal(torch.get_rng_state(), state) and not made.model.training
    assert_same(before, weights(made))


def test_an_error_in_a_lane_is_raised_when_all_have_ended(two_threads) -> None:
    ended = []

    def work(number: int) -> int:
        assert torch.get_num_threads() == 1
        if number == 0:
            raise ValueError("the first")
        ended.append(number)
        return number

    with pytest.raises(ValueError, match="the first"):
        Lanes(2).map(work, [0, 1])
    assert ended == [1] and torch.get_num_threads() == 2
    assert Lanes(2).map(lambda number: 2 * number, [3, 4]) == [6, 8]
