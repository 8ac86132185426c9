"""The trainer: a step, validation, settings and clear errors."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaConfig

from jam.api.training import make_trainer
from jam.data import Shards, make_example, plain_batches, prepare
from jam.documents import Document, Text
from jam.models.cross_block import CrossBlock
from jam.models.scoring import Perplexity, token_nll
from jam.training import DataSource, TrainConfig
from jam.training.forward import batch_hidden, select
from jam.training.optimizers import make_optimizers
from jam.training.records import Records
from jam.training.schedule import lr_factor
from support import tiny
from support.encoded import random_encoded
from support.encoded import write_shards as write_other_shards
from support.runs import config, trainer, weights, write_corpora


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_corpora(tmp_path_factory.mktemp("data"))


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


def test_a_batch_is_a_micro_batch_at_least(shards, tmp_path):
    with pytest.raises(
        ValueError, match="batch_tokens is 64, less than a micro-batch of 4 sequences of 64, which is 256"
    ):
        trainer(shards, tmp_path / "run", batch_tokens=64, micro_batch_size=4)


def test_loss_is_the_weighted_mean(shards, tmp_path):
    made = trainer(shards, tmp_path / "run", image_weight=0.3, micro_batch_size=4, sentinel_weight=0.5)
    (sequences,), _ = made.loader.micro_batches(made.place, 1)
    batch = made.loader.batch(sequences)
    with torch.no_grad():
        logits = made.model.logits(batch_hidden(made.model, batch), batch.states)
        nll = -logits.log_softmax(-1).gather(-1, batch.targets[..., None])[..., 0]
        kept = batch.weights > 0
        expected = (nll[kept] * batch.weights[kept]).sum() / batch.weights.sum()
    assert made.train_step().loss == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_training_lowers_the_loss(shards, tmp_path, optimizer):
    made = trainer(shards, tmp_path / "run", steps=30, optimizer=optimizer)
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


@pytest.mark.parametrize("kind", ["cross", "single"])
def test_validation_is_the_perplexity_of_single_documents(shards, tmp_path, kind):
    """Within the grammar, as `jam eval` measures it, for models whose one softmax runs over everything, too."""
    made = trainer(shards, tmp_path / "run", kind)
    allowed = made.model.grammar.allowed()
    held = Shards(shards / "held", made.model.vocabulary)
    counts = Perplexity()
    for document in range(len(held)):
        (batch,) = plain_batches([held[document]], made.model.grammar, 64, 1)
        with torch.no_grad():
            hidden, targets, states, _ = select(batch, batch_hidden(made.model, batch))
            is_image = torch.tensor([made.model.vocabulary.is_image(int(target)) for target in targets])
            counts.add(token_nll(made.model, hidden, targets, states, allowed), is_image)
    report = made.validate()
    assert report == pytest.approx(counts.report(), rel=1e-5)
    assert report["text_tokens"] + report["image_tokens"] == report["all_tokens"]


def test_validation_leaves_the_run_alone(shards, tmp_path):
    """Mode, random numbers and place in the data; and there is no dropout in it."""
    made = trainer(shards, tmp_path / "run", parent={"dropout": 0.5})
    made.model.train()
    before, place = torch.get_rng_state(), dict(made.place)
    first = made.validate()
    assert made.validate() == first
    assert made.model.training and all(module.training for module in made.model.modules())
    assert torch.equal(torch.get_rng_state(), before) and made.place == place
    (batches, behind), (others, after) = (next(one.batches) for one in (made, trainer(shards, tmp_path / "other")))
    assert behind == after and all(torch.equal(a.inputs, b.inputs) for a, b in zip(batches, others, strict=True))


def test_perplexity_without_targets():
    assert Perplexity().report()["text_ppl"] is None
    counts = Perplexity()
    counts.add(torch.tensor([1000.0, float("inf")]), torch.tensor([False, True]))
    assert counts.report()["text_ppl"] == float("inf") and counts.report()["image_tokens"] == 1


@pytest.mark.parametrize(("kind", "parent"), [("cross", {}), ("single", {}), ("cross", {"readout": "paper"})])
def test_muon_moves_the_matrices_of_the_blocks(shards, tmp_path, kind, parent):
    made = trainer(shards, tmp_path / "run", kind, parent, optimizer="muon")
    names = {parameter: name for name, parameter in made.parameters.items()}
    groups = [[names[p] for g in optimizer.param_groups for p in g["params"]] for optimizer in made.optimizers]
    assert sorted(groups[0] + groups[1]) == sorted(made.parameters)
    inside = re.compile(r"(layers\.\d+\.|to_text|to_image).*weight")
    assert sorted(groups[1]) == sorted(n for n, p in made.parameters.items() if p.ndim == 2 and inside.search(n))


class Alone(CrossBlock):
    """A model of one block."""

    @property
    def blocks(self) -> list[nn.Module]:
        return [self]


@pytest.mark.parametrize("shape", [(64, 64), (32, 128), (128, 32)])
def test_muon_steps_are_of_adamws_size(shape):
    """Root mean square of an update: 0.2 lr (Liu et al., 2025, eq. 4), to what the orthogonalisation gives."""
    torch.manual_seed(0)
    block = Alone(LlamaConfig(hidden_size=64, num_attention_heads=4), 64, "relu", 0)
    settings = {"sources": [DataSource("")], "steps": 9, "optimizer": "muon", "lr": 0.01, "weight_decay": 0.0}
    block.q_proj = nn.Linear(*shape, bias=False)
    _, muon = make_optimizers(block, TrainConfig("", "", **settings))
    weight = block.q_proj.weight
    before = weight.detach().clone()
    for parameter in block.parameters():
        parameter.grad = torch.randn_like(parameter)
    muon.step()
    size = (weight - before).square().mean().sqrt()
    assert 0.8 * 0.2 * 0.01 < size < 1.2 * 0.2 * 0.01


# --- folders and settings ---------------------------------------------------------------------------------------------


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
        ({"image_weight": -1.0}, "image_weight is -1.0; it must not be negative"),
        ({"sentinel_weight": -0.5}, "sentinel_weight is -0.5; it must not be negative"),
        ({"unconditional_rate": 1.5}, "unconditional_rate is 1.5; it must lie between 0 and 1"),
        ({"checkpoint_every": "year"}, "must be a whole number or epoch"),
        ({"optimizer": "Muon"}, "optimizer is 'Muon'; it must be adamw or muon"),
        ({"momentum": -0.1}, "momentum is -0.1; it must lie between 0 and 1"),
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
    values = config(tmp_path, tmp_path / "run", warmup_steps=1, batch_tokens=128, **folders)
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
    conversations = [source[index] for index in range(len(source)) if source[index].main_start > 1]
    assert conversations
    for number, document in enumerate(conversations):
        example = make_example(document, made.model.grammar, made.loader.objective, np.random.default_rng(number), 64)
        assert not example.weights[: document.main_start - 1].any()


def test_every_turn_is_learnt_where_the_recipe_says_so(shards, tmp_path):
    last, every = (trainer(shards, tmp_path / name, learn_turns=name) for name in ("last", "all"))
    weights = [
        sum(float(source[number].weights().sum()) for number in range(len(source)))
        for source in (made.loader.sources[0] for made in (last, every))
    ]
    assert weights[0] < weights[1] and next(every.train()).loss != next(last.train()).loss
    assert [
        len(one.ids) for one in map(every.validation[0].__getitem__, range(12)) if one.weights()[: one.main_start].any()
    ] == []


def test_turns_that_no_source_has_are_not_learnt_in_silence(shards, tmp_path):
    codec = tiny.codec()
    list(prepare([Document(content=[Text("a red house")])] * 9, codec, tmp_path / "plain"))
    sources = [DataSource(str(tmp_path / "plain"))]
    with pytest.raises(
        ValueError, match="learn_turns is all, and the shards of no source name an answer before the last"
    ):
        trainer(shards, tmp_path / "run", sources=sources, learn_turns="all")


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


def test_only_the_first_process_writes_records():
    Records(None, 0).write({"step": 1})
