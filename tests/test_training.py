"""The trainer: gradients, exact resumption, checkpoints, interrupts and clear errors."""

from __future__ import annotations

import errno
import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

import jam
from jam.checkpoints import CheckpointReader
from jam.commands.train import make_trainer
from jam.data import Shards, make_example, plain_batches, prepare
from jam.models.scoring import Perplexity, token_nll
from jam.training import RESULT, DataSource, TrainConfig, Trainer, checkpoint
from jam.training.interrupts import interrupts_wait
from jam.training.schedule import lr_factor
from jam.training.trainer import batch_hidden, select


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Folders of token shards: documents to learn from, and to validate on."""
    folder = tmp_path_factory.mktemp("data")
    codec = tiny.codec()
    rng = np.random.default_rng(0)
    for name, count in (("train", 90), ("held", 12)):
        documents = [tiny.random_document(rng) for _ in range(2 * count)]
        short = [document for document in documents if codec.encode(document).answer_start < 40]
        list(prepare(short[:count], codec, folder / name))
    return folder


def config(shards, out, **changes) -> TrainConfig:
    values = {"model": "", "out": str(out), "sources": [DataSource(str(shards / "train"))], "steps": 6, "lr": 3e-3}
    values |= {"batch_tokens": 4 * 64, "micro_batch_size": 2, "warmup_steps": 2, "validation": [str(shards / "held")]}
    return TrainConfig(**(values | changes))


def trainer(shards, out, kind="cross", parent=None, **changes) -> Trainer:
    """A trainer of a fresh model, always with the same weights."""
    made = tiny.model(out.parent / f"{out.name}-model", kind, **(parent or {}))
    return Trainer(made.joint, config(shards, out, **changes), made.save, made.load_weights)


def weights(made: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in made.model.state_dict().items()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


# --- a step --------------------------------------------------------------------------------------------------------


def test_accumulation_weighs_every_target_alike(shards, tmp_path):
    """Four micro-batches of one sequence give the loss and the gradient norm of one of four."""
    reports = []
    for size in (1, 2, 4):
        made = trainer(shards, tmp_path / f"run{size}", micro_batch_size=size, image_weight=0.3)
        assert made.accumulation * size == 4
        report = made.train_step()
        reports.append((report.loss, report.text_loss, report.image_loss, report.grad_norm, report.tokens))
    assert reports[0] == pytest.approx(reports[1], rel=1e-5) and reports[0] == pytest.approx(reports[2], rel=1e-5)


def test_loss_is_the_weighted_mean(shards, tmp_path):
    made = trainer(shards, tmp_path / "run", image_weight=0.3, micro_batch_size=4, sentinel_weight=0.5)
    batch = next(made.loader)
    made.loader.load_state({"window": 0, "sequence": 0})
    with torch.no_grad():
        logits = made.model.logits(batch_hidden(made.model, batch), batch.states)
        nll = -logits.log_softmax(-1).gather(-1, batch.targets[..., None])[..., 0]
        kept = batch.weights > 0
        expected = (nll[kept] * batch.weights[kept]).sum() / batch.weights.sum()
    assert made.train_step().loss == pytest.approx(float(expected), rel=1e-5)


def test_training_lowers_the_loss(shards, tmp_path):
    made = trainer(shards, tmp_path / "run", steps=30)
    reports = list(made.train())
    assert reports[-1].loss < 0.8 * reports[0].loss
    assert [report.step for report in reports] == list(range(1, 31))


def test_learning_rate():
    factors = [lr_factor(step, 20, 4, "cosine", 0.1) for step in range(20)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0] and factors[-1] == pytest.approx(0.1)
    assert factors[4:] == sorted(factors[4:], reverse=True)
    assert lr_factor(11, 20, 4, "linear", 0.0) == pytest.approx(0.5)
    assert lr_factor(19, 20, 4, "constant", 0.0) == 1.0
    assert lr_factor(0, 20, 0, "constant", 0.0) == 1.0


def test_bf16_autocast_trains(shards, tmp_path):
    made = trainer(shards, tmp_path / "run", precision="bf16")
    exact = trainer(shards, tmp_path / "exact")
    assert made.train_step().loss == pytest.approx(exact.train_step().loss, rel=0.02)
    assert {parameter.dtype for parameter in made.model.parameters()} == {torch.float32}


def test_a_loss_that_is_none_stops_the_run(shards, tmp_path):
    made = trainer(shards, tmp_path / "run")
    next(made.model.parameters()).data.fill_(float("nan"))
    before = weights(made)
    with pytest.raises(ValueError, match=r"after step 0: loss nan .* lower lr"):
        made.train_step()
    assert all(torch.equal(before[name].nan_to_num(7), value.nan_to_num(7)) for name, value in weights(made).items())


# --- validation ----------------------------------------------------------------------------------------------------


def test_validation_is_the_perplexity_of_single_documents(shards, tmp_path):
    made = trainer(shards, tmp_path / "run")
    held = Shards(shards / "held", made.model.vocabulary)
    counts = Perplexity()
    for document in range(len(held)):
        (batch,) = plain_batches([held[document]], made.model.grammar, 64, 1)
        with torch.no_grad():
            hidden, targets, states, _ = select(batch, batch_hidden(made.model, batch))
            is_image = torch.tensor([made.model.vocabulary.is_image(int(target)) for target in targets])
            counts.add(token_nll(made.model, hidden, targets, states), is_image)
    report = made.validate()
    assert report == pytest.approx(counts.report(), rel=1e-5)
    assert report["text_tokens"] + report["image_tokens"] == report["all_tokens"]


def test_validation_leaves_the_run_alone(shards, tmp_path):
    """Mode, random numbers and place in the data; and there is no dropout in it."""
    made = trainer(shards, tmp_path / "run", parent={"dropout": 0.5})
    made.model.train()
    before, place = torch.get_rng_state(), made.loader.state()
    first = made.validate()
    assert made.validate() == first
    assert made.model.training and all(module.training for module in made.model.modules())
    assert torch.equal(torch.get_rng_state(), before) and made.loader.state() == place


def test_perplexity_without_targets():
    assert Perplexity().report()["text_ppl"] is None
    counts = Perplexity()
    counts.add(torch.tensor([1000.0, float("inf")]), torch.tensor([False, True]))
    assert counts.report()["text_ppl"] == float("inf") and counts.report()["image_tokens"] == 1


# --- resumption ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "dropout"), [("cross", 0.0), ("cross", 0.3), ("single", 0.0)])
def test_resumed_training_equals_uninterrupted_training(shards, tmp_path, kind, dropout):
    """Losses and weights, to the last bit; with dropout, too."""
    options = {"kind": kind, "parent": {"dropout": dropout}}
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
    for name in (RESULT, "checkpoints/step-000006"):
        first, second = CheckpointReader(whole.run / name), CheckpointReader(resumed.run / name)
        assert first.infos.keys() == second.infos.keys()
        assert all(torch.equal(first.read(tensor), second.read(tensor)) for tensor in first.infos)


def test_an_interrupt_inside_a_step_saves_the_last_whole_step(shards, tmp_path, monkeypatch):
    whole = trainer(shards, tmp_path / "whole")
    expected = [report.loss for report in whole.train()]
    stopped = trainer(shards, tmp_path / "stopped")
    calls = []
    hidden = stopped.model.hidden

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 2 * stopped.accumulation + 2:  # in the middle of the third step
            raise KeyboardInterrupt
        return hidden(*args)

    monkeypatch.setattr(stopped.model, "hidden", interrupted)
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
    with pytest.raises(KeyboardInterrupt), interrupts_wait():
        os.kill(os.getpid(), signal.SIGINT)
        order.append("block")
    assert order == ["block"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_records_behind_the_checkpoint_are_dropped(shards, tmp_path):
    """A run that was killed goes on from its last checkpoint, and no step is recorded twice."""
    killed = trainer(shards, tmp_path / "run", checkpoint_every=2)
    steps = killed.train()
    for _ in range(3):
        next(steps)
    killed.save_checkpoint = lambda: None  # type: ignore[method-assign]
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
        frozen = Trainer(made.model, made.config, made.save_model, made.load_weights)
        steps = frozen.train()
        next(steps)
        steps.close()
    assert frozen.step == 2


def test_resuming_with_other_data_is_refused(shards, tmp_path):
    next(steps := trainer(shards, tmp_path / "run").train())
    steps.close()
    for change, message in (({"seed": 5}, "seed was 0 and is 5"), ({"context": 60}, "context was 64 and is 60")):
        with pytest.raises(ValueError, match=message):
            next(trainer(shards, tmp_path / "run", resume=True, **change).train())


def test_optimiser_state_of_another_model_is_refused(shards, tmp_path):
    next(steps := trainer(shards, tmp_path / "run").train())
    steps.close()
    made = trainer(shards, tmp_path / "run")
    names = {parameter: f"other.{name}" for parameter, name in made.names.items()}
    with pytest.raises(ValueError, match="parameters that are not trained"):
        checkpoint.load_optimizer(tmp_path / "run" / "checkpoints" / "step-000001", made.optimizer, names)


# --- checkpoints and folders -----------------------------------------------------------------------------------------


def test_checkpoints_are_whole_models_and_old_ones_go(shards, tmp_path):
    made = trainer(shards, tmp_path / "run", checkpoint_every=2, keep_checkpoints=2, validate_every=3)
    list(made.train())
    found = checkpoint.checkpoints(made.run)
    assert [path.name for path in found] == ["step-000004", "step-000006"]
    model = jam.load(found[-1])
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
    documents = 0
    for report in made.train():
        del report
    documents = made.loader.window * made.loader.window_size
    assert documents <= 3 * 90 + made.loader.window_size
    expected = [int(np.ceil(number * epoch)) for number in (1, 2, 3)]
    assert [int(path.name[5:]) for path in checkpoint.checkpoints(made.run)] == expected


def test_a_full_disk_keeps_the_last_good_checkpoint(shards, tmp_path, monkeypatch):
    made = trainer(shards, tmp_path / "run", checkpoint_every=1)
    steps = made.train()
    next(steps), next(steps)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(ValueError, match=r"the disk is full: cannot write .*step-000002"):
        next(steps)
    monkeypatch.undo()
    found = list((made.run / "checkpoints").iterdir())
    assert [path.name for path in found] == ["step-000001"]
    resumed = trainer(shards, tmp_path / "run", resume=True)
    whole = trainer(shards, tmp_path / "whole")
    expected = [report.loss for report in whole.train()]
    assert [report.loss for report in resumed.train()] == expected[1:]


def test_folders_that_exist_are_refused(shards, tmp_path):
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match="other exists; choose another --out or remove it"):
        next(trainer(shards, tmp_path / "other").train())
    steps = trainer(shards, tmp_path / "run").train()
    next(steps)
    steps.close()
    with pytest.raises(ValueError, match="holds a run at step-000001; pass --resume"):
        next(trainer(shards, tmp_path / "run").train())
    list(trainer(shards, tmp_path / "run", resume=True).train())
    for resume in (False, True):
        with pytest.raises(ValueError, match="holds a finished run"):
            next(trainer(shards, tmp_path / "run", resume=resume).train())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": None}, "either steps or epochs"),
        ({"epochs": 2.0}, "either steps or epochs"),
        ({"sources": []}, "sources is empty"),
        ({"lr": 0.0}, "lr is 0.0; it must be positive"),
        ({"validate_every": -1}, "validate_every is -1; it must not be negative"),
        ({"unconditional_rate": 1.5}, "unconditional_rate is 1.5; it must lie between 0 and 1"),
        ({"checkpoint_every": "year"}, 'must be a number of steps or "epoch"'),
    ],
)
def test_settings_are_checked(shards, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        config(shards, tmp_path, **changes)


def test_context_must_fit_the_model(shards, tmp_path):
    with pytest.raises(ValueError, match="context is 100, the model takes 64 positions"):
        trainer(shards, tmp_path / "run", context=100)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_a_warm_up_leaves_steps_for_the_schedule(shards, tmp_path, schedule):
    short = {"schedule": schedule, "warmup_steps": 6}
    if schedule == "constant":
        assert trainer(shards, tmp_path / "run", **short).steps == 6
        return
    with pytest.raises(ValueError, match=f"warmup_steps is 6, the run has 6 steps: none is left for the {schedule}"):
        trainer(shards, tmp_path / "run", **short)
    with pytest.raises(ValueError, match="warmup_steps is 100, the run has"):
        trainer(shards, tmp_path / "run", **(short | {"steps": None, "epochs": 1, "warmup_steps": 100}))


@pytest.mark.parametrize("where", ["sources", "validation"])
def test_shards_of_other_tokenizers_are_refused(tmp_path, where):
    """Their vocabularies have the same sizes; shards to learn from and to validate on are both compared."""
    made = tiny.model(tmp_path / "model")
    documents = [tiny.random_document(np.random.default_rng(seed)) for seed in range(3)]
    list(prepare(documents, made.codec, tmp_path / "own"))
    list(prepare(documents, tiny.codec(), tmp_path / "other"))
    shown = {name: str(tmp_path / name) for name in ("own", "other")}
    folders = {"sources": [DataSource(shown["own"])], "validation": [shown["own"]]}
    values = config(tmp_path, tmp_path / "run", warmup_steps=1, batch_tokens=64, **folders)
    assert make_trainer(made, values).steps == 6
    wrong = {"sources": [DataSource(shown["other"])], "validation": [shown["other"]]}
    own, other = made.codec.fingerprint, tiny.codec().fingerprint
    with pytest.raises(
        ValueError, match=f"other: prepared by .* {other}, the model's have {own}: .* run `jam prepare`"
    ):
        make_trainer(made, replace(values, **{where: wrong[where]}))


def test_a_model_that_lost_its_image_tokenizer_is_not_trained(shards, tmp_path):
    made = tiny.model(tmp_path / "model")
    made.folder = tmp_path / "elsewhere"
    with pytest.raises(ValueError, match="elsewhere/image_tokenizer: the image tokenizer is gone"):
        make_trainer(made, config(shards, tmp_path / "run"))


def test_answers_alone_are_learnt(shards, tmp_path):
    """Loss positions of a conversation in a run lie behind its question."""
    made = trainer(shards, tmp_path / "run")
    source = made.loader.sources[0]
    conversations = [source[index] for index in range(len(source)) if source[index].answer_start > 1]
    assert conversations
    for number, document in enumerate(conversations):
        example = make_example(document, made.model.grammar, made.loader.objective, np.random.default_rng(number), 64)
        assert not example.weights[: document.answer_start - 1].any()
    assert replace(made.config, seed=1).seed == 1
