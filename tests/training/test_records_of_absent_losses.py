"""What a step had none of, its records say nothing of: neither 0 in a mean nor a point in a curve."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jam.console.progress import Smoothed
from jam.console.training import run_training
from jam.data import prepare
from jam.documents import Document, Text
from jam.tokenizer_training import TokenizerTrainer
from jam.training import DataSource, TrainConfig, Trainer
from jam.training.totals import Totals
from jam.training.watch import Watch
from support import pictures, tiny
from support.runs import trainer

TEXT = {"cm3": False, "unconditional_rate": 0.0, "steps": 3}


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Shards whose documents have no picture, to learn from and to validate on."""
    codec = tiny.codec()
    rng = np.random.default_rng(0)
    for name, count in (("train", 60), ("held", 4)):
        written = [Document(content=[Text(f"A red house. {rng.choice(tiny.SENTENCES)}")]) for _ in range(count)]
        list(prepare(written, codec, tmp_path / "shards" / name))
    return tmp_path / "shards"


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def curves(run: Path) -> set[str]:
    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    return set(board.Tags()["scalars"])


def test_a_run_without_pictures_has_no_image_loss(texts: Path, tmp_path: Path) -> None:
    made = trainer(texts, tmp_path / "run", **TEXT)
    written = io.StringIO()
    run_training(made, "training", Console(file=written, force_terminal=True, width=200))
    steps = [line for line in lines(tmp_path / "run") if "loss" in line]
    assert len(steps) == 3 and all(line["text_loss"] > 0 and line["text_accuracy"] is not None for line in steps)
    assert all(line["image_loss"] is None and line["image_accuracy"] is None for line in steps)
    found = curves(tmp_path / "run")
    assert {"loss", "text_loss", "validation_text_ppl"} <= found
    assert not found & {"image_loss", "image_accuracy", "validation_image_ppl"}
    assert "text " in written.getvalue() and "image " not in written.getvalue()


def test_a_step_without_weights_has_no_loss_and_judges_no_other(texts: Path, tmp_path: Path) -> None:
    made: Trainer = trainer(texts, tmp_path / "run", **TEXT)
    batches, behind = next(made.batches)
    made.batches = iter([([replace(b, weights=torch.zeros_like(b.weights)) for b in batches], behind)])
    report = made.train_step()
    assert report.problem is None and report.loss is report.text_loss is report.image_loss is None
    assert not made.watch.recent and report.grad_norm == 0


def test_a_jump_is_measured_by_the_losses_that_there_were() -> None:
    watch = Watch(TrainConfig("", "", sources=[DataSource("")], steps=1, spike=3.0))
    for loss in [1.0, None] * 8:
        assert watch.problem(loss, 1.0) is None
        watch.count(loss, None)
    assert watch.problem(2.9, 1.0) is None and "more than 3 times 1," in (watch.problem(3.1, 1.0) or "")
    assert watch.problem(None, float("nan")) == "loss None and gradient norm nan"


def test_means_by_modality() -> None:
    of_text = Totals(1.0, 9, text_nats=6.0, text_right=1, text_targets=4, image_nats=0, image_right=0, image_targets=0)
    expected = {"text_loss": 1.5, "text_accuracy": 0.25, "image_loss": None, "image_accuracy": None}
    assert of_text.means() == expected
    of_images = replace(of_text, text_nats=0.0, text_targets=0, image_nats=2.0, image_right=0, image_targets=1)
    assert of_images.means() == {"text_loss": None, "text_accuracy": None, "image_loss": 2.0, "image_accuracy": 0.0}


def test_the_bar_averages_what_there_was() -> None:
    smooth = Smoothed(rate=0.5)
    assert smooth({"text": 2.0, "image": None}) == "text 2.000"
    assert smooth({"text": None, "image": 4.0}) == "text 2.000 image 4.000"
    assert smooth({"text": 4.0, "image": None}) == "text 3.000 image 4.000"


def test_losses_that_an_image_tokenizer_has_not_yet(tmp_path: Path) -> None:
    """Before there are codes, and before there is a discriminator."""
    source, out = pictures.folder(tmp_path / "pictures"), tmp_path / "run"
    steps = list(TokenizerTrainer(pictures.recipe(source, out, perceptual_weight=0.0)).train())
    config = pictures.recipe(source, out)
    assert 0 < config.codebook_from < config.adversarial_from < len(steps)
    for number, step in enumerate(steps):
        assert (step.commitment is None) == (step.codes_used is None) == (number < config.codebook_from)
        assert (step.adversarial is None) == (step.discriminator is None) == (number < config.adversarial_from)
        assert step.perceptual_loss is None and step.loss > 0 and step.pixel_loss > 0
    assert {"commitment", "adversarial"} <= curves(out) and "perceptual_loss" not in curves(out)
