"""Runs that stop and go on: exact resumption, checkpoints, interrupts."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest
import torch

import jam
from jam.checkpoints import CheckpointReader
from jam.training import RESULT, DataSource, Trainer, checkpoint
from jam.training.interrupts import interrupts_wait
from support import faults
from support.runs import assert_same, stored, trainer, weights, write_corpora


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_corpora(tmp_path_factory.mktemp("data"))


# --- resumption ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "dropout", "optimizer"),
    [
        ("cross", 0.3, "adamw"),
        pytest.param("cross", 0.0, "muon", marks=pytest.mark.slow),
        pytest.param("cross", 0.0, "adamw", marks=pytest.mark.slow),
        pytest.param("single", 0.0, "adamw", marks=pytest.mark.slow),
    ],
)
def test_resumed_training_equals_uninterrupted_training(shards, tmp_path, kind, dropout, optimizer):
    """Losses and weights, to the last bit; with dropout, too."""
    options = {"kind": kind, "parent": {"dropout": dropout}, "optimizer": optimizer}
    whole = trainer(shards, tmp_path / "whole", **options)
    expected = list(whole.train())
    stopped = trainer(shards, tmp_path / "stopped", checkpoint_every=2, **options)
    seen = []
    for report in stopped.train():
        seen.append(report.loss)
        if len(seen) == 3:
            break  # closes the iterator, which saves a checkpoint
    assert [path.name for path in checkpoint.checkpoints(stopped.run)] == ["step-000002", "step-000003"]
    torch.manual_seed(99)
    resumed = trainer(shards, tmp_path / "stopped", resume=True, **options)
    seen += [report.loss for report in resumed.train()]
    assert seen == [report.loss for report in expected]
    assert_same(weights(resumed), weights(whole))
    first, second = CheckpointReader(whole.run / RESULT), CheckpointReader(resumed.run / RESULT)
    assert first.infos.keys() == second.infos.keys()
    assert all(torch.equal(first.read(tensor), second.read(tensor)) for tensor in first.infos)
    first, second = (stored(run.run / "checkpoints" / "step-000006") for run in (whole, resumed))
    assert_same(first, second)


def test_an_interrupt_inside_a_step_saves_the_last_whole_step(shards, tmp_path, monkeypatch):
    whole = trainer(shards, tmp_path / "whole")
    expected = [report.loss for report in whole.train()]
    stopped = trainer(shards, tmp_path / "stopped")
    within_step_3 = 2 * stopped.accumulation + 2
    faults.at_call(monkeypatch, stopped.model, "hidden", faults.raising(KeyboardInterrupt()), within_step_3)
    with pytest.raises(KeyboardInterrupt):
        list(stopped.train())
    assert [path.name for path in checkpoint.checkpoints(stopped.run)] == ["step-000002"]
    resumed = trainer(shards, tmp_path / "stopped", resume=True)
    assert [report.loss for report in resumed.train()] == expected[2:]
    assert_same(weights(resumed), weights(whole))
    records = [json.loads(line) for line in (resumed.run / "metrics.jsonl").read_text().splitlines()]
    assert [record["loss"] for record in records if "loss" in record] == expected


def test_an_interrupt_during_the_update_waits():
    order = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt), interrupts_wait():
            os.kill(os.getpid(), signal.SIGINT)
            order.append("block")
        assert order == ["block"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_records_behind_the_checkpoint_are_dropped(shards, tmp_path):
    """A run that was killed goes on from its last checkpoint, and no step is recorded twice."""
    killed = trainer(shards, tmp_path / "run", checkpoint_every=2)
    steps = killed.train()
    for _ in range(3):
        next(steps)
    killed.save_checkpoint = lambda wait: killed.checkpoints.settle(wait)  # type: ignore[method-assign]
    steps.close()
    resumed = trainer(shards, tmp_path / "run", resume=True)
    assert [report.step for report in resumed.train()] == [3, 4, 5, 6]
    records = [json.loads(line) for line in (resumed.run / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "loss" in record] == [1, 2, 3, 4, 5, 6]


def test_parameters_without_gradient_resume_too(shards, tmp_path):
    """A frozen part, and rows that no document has touched, have no moments."""
    for resume in (False, True):
        made = trainer(shards, tmp_path / "run", resume=resume)
        made.model.text_tower.requires_grad_(False)
        frozen = Trainer(made.model, made.config, made.save_model)
        steps = frozen.train()
        next(steps)
        steps.close()
    assert frozen.step == 2


def test_resuming_with_other_data_is_refused(shards, tmp_path):
    next(steps := trainer(shards, tmp_path / "run").train())
    steps.close()
    for change, message in (
        ({"seed": 5}, "seed was 0 and is 5"),
        ({"context": 60}, "context was 64 and is 60"),
    ):
        with pytest.raises(ValueError, match=message):
            next(trainer(shards, tmp_path / "run", resume=True, **change).train())


def test_resuming_with_another_optimiser_is_refused(shards, tmp_path):
    next(steps := trainer(shards, tmp_path / "run").train())
    steps.close()
    with pytest.raises(ValueError, match="optimizer was adamw and is muon"):
        next(trainer(shards, tmp_path / "run", resume=True, optimizer="muon").train())


def test_a_checkpoint_of_another_model_is_refused(shards, tmp_path):
    next(steps := trainer(shards, tmp_path / "run").train())
    steps.close()
    with pytest.raises(ValueError, match=r"6 tensors are missing, .* \(text_tower.*fc1.weight\)"):
        next(trainer(shards, tmp_path / "run", parent={"ffn_dim": 64}, resume=True).train())


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


# --- checkpoints and folders -----------------------------------------------------------------------------------------


def test_old_checkpoints_go_and_the_result_is_a_whole_model(shards, tmp_path):
    made = trainer(shards, tmp_path / "run", checkpoint_every=2, keep_checkpoints=2, validate_every=3)
    list(made.train())
    found = checkpoint.checkpoints(made.run)
    assert [path.name for path in found] == ["step-000004", "step-000006"]
    model = jam.load(made.run / RESULT)
    assert model.manifest.stage == "aligned"
    assert_same(model.joint.state_dict(), weights(made))
    records = [json.loads(line) for line in (made.run / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "validation_all_ppl" in record] == [3, 6]
    assert made.validation_report["all_ppl"] == records[-1]["validation_all_ppl"]
    assert json.loads((made.run / "recipe.json").read_text())["lr"] == 3e-3
    assert list((made.run / "tensorboard").iterdir())


def test_a_checkpoint_each_epoch(shards, tmp_path):
    """`epochs` gives the steps; all checkpoints are kept where that is asked for."""
    made = trainer(shards, tmp_path / "run", steps=None, epochs=3, checkpoint_every="epoch", keep_checkpoints=0)
    epoch = made.steps_per_epoch
    assert made.steps == int(np.ceil(3 * epoch)) and epoch > 2
    list(made.train())
    expected = [int(np.ceil(number * epoch)) for number in (1, 2, 3)]
    assert [int(path.name[5:]) for path in checkpoint.checkpoints(made.run)] == expected


def test_a_full_disk_keeps_the_last_good_checkpoint(shards, tmp_path, monkeypatch):
    made = trainer(shards, tmp_path / "run", checkpoint_every=1)
    steps = made.train()
    next(steps), next(steps)
    made.checkpoints.settle(wait=True)
    monkeypatch.setattr(os, "fsync", faults.full_disk)
    with pytest.raises(ValueError, match=r"the disk is full: cannot write .*step-000002.*last checkpoint is .*000001"):
        next(steps), next(steps)
    monkeypatch.undo()
    found = list((made.run / "checkpoints").iterdir())
    assert [path.name for path in found] == ["step-000001"]
    resumed = trainer(shards, tmp_path / "run", resume=True)
    whole = trainer(shards, tmp_path / "whole")
    expected = [report.loss for report in whole.train()]
    assert [report.loss for report in resumed.train()] == expected[1:]
