"""Several processes do what one does: FSDP2 on two, what is trained, resumption on another number of them."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

import jam
from jam.training import RESULT
from jam.training.checkpoint import checkpoints, read_state
from jam.training.distributed import World
from jam.training.parts import part_of
from support import ranks
from support.runs import assert_same, trainer, write_corpora

# Gradients that are none: attention does not see what all keys have in common, and the image parent has all rows.
ZERO = ("self_attn.k_proj.bias", "image_tower.absent_input")


@pytest.fixture(scope="module")
def fast(tmp_path_factory):
    return ranks.results(tmp_path_factory.mktemp("fast"), ranks.fast)


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    return ranks.results(tmp_path_factory.mktemp("slow"), ranks.slow)


def assert_equal_runs(folder: Path, first: str, second: str, losses: float = 1e-4, gradients: float = 1e-5) -> None:
    """Losses of all steps, and every gradient of the first by its own norm."""
    one, other = (torch.load(folder / f"{name}.pt") for name in (first, second))
    assert len(one["losses"]) == len(other["losses"])
    assert one["losses"] == pytest.approx(other["losses"], rel=losses)
    assert one["trainable"] == other["trainable"] and one["state"] == other["state"]
    assert one["gradients"].keys() == other["gradients"].keys()
    for name, gradient in one["gradients"].items():
        size, difference = gradient.norm(), (gradient - other["gradients"][name]).norm()
        if name.endswith(ZERO):
            assert size < 1e-6 and difference < 1e-6, name
        else:
            assert size > 1e-6 and difference < gradients * size, name


@pytest.mark.parametrize("name", ranks.FAST)
def test_two_processes_equal_one(fast, name):
    """With a micro-batch left over; with dropout, activation checkpointing, z-loss and chunks of logits for "all"."""
    assert_equal_runs(fast, f"{name}-1", f"{name}-2")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ranks.FAST, *ranks.SLOW])
def test_twenty_steps_on_two_processes_equal_one(slow, name):
    assert_equal_runs(slow, f"{name}-1", f"{name}-2")


@pytest.mark.slow
def test_hybrid_sharding_equals_one_process(slow):
    """On two nodes of two, each of which has a copy in two parts."""
    assert_equal_runs(slow, "plain-1", "hybrid-4")
    assert torch.load(slow / "hybrid-4.pt")["share"] == pytest.approx(0.5, abs=0.01)
    assert_equal_runs(slow, "muon-1", "hybrid-muon-4")


@pytest.mark.slow
def test_bf16_is_close_on_two_processes(slow):
    assert_equal_runs(slow, "bf16-1", "bf16-2", losses=0.02, gradients=0.2)


@pytest.mark.slow
def test_validation_on_two_processes_equals_one(slow):
    assert_equal_runs(slow, "validated-1", "validated-2")
    lines = [(slow / f"validated-{size}" / "metrics.jsonl").read_text().splitlines() for size in (1, 2)]
    first, second = ([json.loads(line) for line in of_run if "validation" in line] for of_run in lines)
    assert len(first) == 2
    for one, other in zip(first, second, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_a_run_goes_on_with_another_number_of_processes(fast):
    whole, resumed = torch.load(fast / "all-1.pt"), torch.load(fast / "resumed-2-1.pt")
    assert resumed["losses"] == pytest.approx(whole["losses"][3:], rel=1e-4)


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_exactly(slow):
    whole = torch.load(slow / "plain-2.pt")["losses"][7:]
    assert torch.load(slow / "resumed-2-2.pt")["losses"] == whole
    for name in ("resumed-1-2", "resumed-2-1"):
        assert torch.load(slow / f"{name}.pt")["losses"] == pytest.approx(whole, rel=1e-4)


# --- killed and gone on with ------------------------------------------------------------------------------------------


def records(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]


def assert_killed_equals_whole(folder: Path, size: int) -> None:
    """Every step was recorded once, with the losses of the run that nobody killed, to the last bit; weights too."""
    whole, killed = records(folder, f"whole-{size}"), records(folder, f"killed-{size}")
    figures = [[(r["step"], r["loss"], r["grad_norm"]) for r in one] for one in (whole, killed)]
    assert figures[0] == figures[1]
    first, second = (jam.load(folder / f"{kind}-{size}" / RESULT).joint.state_dict() for kind in ("whole", "killed"))
    assert_same(first, second)
    assert not list((folder / f"killed-{size}").rglob("*.partial*"))


def test_killed_twice_a_run_computes_the_same(fast):
    assert_killed_equals_whole(fast, 1)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2])
def test_killed_at_twenty_random_moments_a_run_computes_the_same(slow, size):
    assert_killed_equals_whole(slow, size)


def test_sigterm_saves_and_exits(fast):
    """It reached one of two processes; both end with its status, and the last step has its checkpoint."""
    assert torch.load(fast / "terminated.pt") == [128 + signal.SIGTERM] * 2
    (found,) = checkpoints(fast / "terminated")
    assert records(fast, "terminated")[-1]["step"] == read_state(found)["step"] >= 2


def test_what_is_frozen_has_neither_gradient_nor_state(tmp_path):
    made = trainer(write_corpora(tmp_path / "shards"), tmp_path / "run", train="cross")
    made.train_step()
    assert made.model.text_tower.model.get_input_embeddings().weight.grad is None
    (optimizer,) = made.optimizers
    assert set(optimizer.state) == set(made.parameters.values())
    new_rows = {"text_tower.absent_input", "text_tower.absent_output", "image_tower.absent_input"}
    assert {name for name in made.parameters if "tower" in name} == new_rows
    assert {name.split(".")[0] for name in made.parameters if name not in new_rows} == {"to_text", "to_image"}


def test_results_of_two_processes_load(fast):
    assert_results_load(fast, ranks.FAST)


def assert_results_load(folder: Path, names: Iterable[str]) -> None:
    base = trainer(folder / "shards", folder / "base")
    for name in names:
        loaded = jam.load(folder / f"{name}-2" / RESULT).joint.state_dict()
        single = jam.load(folder / f"{name}-1" / RESULT).joint.state_dict()
        assert loaded.keys() == base.model.state_dict().keys()
        for key, value in loaded.items():
            torch.testing.assert_close(value, single[key], rtol=0, atol=1e-4)


@pytest.mark.slow
def test_merged_adapters_load(slow):
    """The folder holds the model's own tensors, and nothing of PEFT is needed to open it."""
    assert_results_load(slow, ["lora"])
    base = trainer(slow / "shards", slow / "again")
    lora, start = jam.load(slow / "lora-2" / RESULT).joint.state_dict(), base.model.state_dict()
    changed = {name for name, value in lora.items() if not torch.equal(value, start[name])}
    assert any("q_proj.weight" in name and "tower" in name for name in changed)
    assert not any("embed_tokens" in name or name.endswith("lm_head.weight") for name in changed)


def test_a_batch_smaller_than_the_number_of_processes_is_refused(fast):
    message = torch.load(fast / "refused.pt")
    assert "batch_tokens is 64, which is 1 x 1 sequences of 64: too few for 2 processes" in message


@pytest.mark.parametrize(("size", "count"), [(1, 3), (2, 5), (3, 3), (4, 2), (4, 9)])
def test_turns(size, count):
    """Every number is one process's own once, and all have as many turns."""
    turns = [World(rank, size).turns(count) for rank in range(size)]
    assert len({len(one) for one in turns}) == 1
    assert sorted(number for one in turns for number, is_own in one if is_own) == list(range(count))
    assert all(0 <= number < count for one in turns for number, _ in one)


# --- what trains ------------------------------------------------------------------------------------------------------


def test_adapters_learn(tmp_path):
    shards = write_corpora(tmp_path / "shards")
    for choice in ("cross", "lora"):
        made = trainer(shards, tmp_path / choice, train=choice, steps=16, lr=3e-2, lora_dropout=0.1)
        before = {name: value.clone() for name, value in made.model.named_parameters()}
        reports = list(made.train())
        assert sum(r.loss for r in reports[-4:]) < 0.97 * sum(r.loss for r in reports[:4])
        for name, parameter in made.model.named_parameters():
            assert torch.equal(parameter, before[name]) != parameter.requires_grad, name


def test_choices_that_do_not_fit_are_refused(tmp_path, monkeypatch):
    shards = write_corpora(tmp_path / "shards")
    with pytest.raises(ValueError, match="a single decoder has no cross blocks; choose all or lora"):
        trainer(shards, tmp_path / "run", "single", train="cross")
    with pytest.raises(ValueError, match="lr_factors names towr; what is trained here is text, image, cross"):
        trainer(shards, tmp_path / "run", lr_factors={"towr": 2.0})
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"needs PEFT: pip install 'jam-fusion\[lora\]'"):
        trainer(shards, tmp_path / "run", train="lora")


def test_learning_rates_by_part(tmp_path):
    shards = write_corpora(tmp_path / "shards")
    for optimizer in ("adamw", "muon"):
        made = trainer(shards, tmp_path / optimizer, lr_factors={"cross": 10.0, "image": 0.5}, optimizer=optimizer)
        assert made.train_step().lr == pytest.approx(1.5e-3)  # the first of two steps of the warm-up
        names = {parameter: name for name, parameter in made.parameters.items()}
        for group in (group for one in made.optimizers for group in one.param_groups):
            for parameter in group["params"]:
                factor = {"cross": 10.0, "image": 0.5, "text": 1.0}[part_of(names[parameter])]
                assert group["lr"] == pytest.approx(factor * 1.5e-3)
