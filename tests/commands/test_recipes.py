"""Every recipe loads through the command line; `recipes/` has the paper's numbers (docs/method.md, section 6)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jam.commands import parse
from jam.commands.train import read_config
from jam.data import prepare
from jam.documents import Document
from jam.training import TrainConfig, Trainer
from support.tiny import model as tiny_model
from support.tiny import random_parts

ROOT = Path(__file__).parents[2]
DEMO = sorted((ROOT / "src" / "jam" / "demo" / "recipes").glob("*.yaml"))


def load(path: Path, *more: str) -> TrainConfig:
    command, settings = parse(["train", str(path), "--model", "parent", "--out", "run", *more])
    assert command == "train"
    return read_config(settings)


def test_recipes_are_there() -> None:
    assert {"align", "instruct", "instruct-long"} <= {path.stem for path in DEMO}


@pytest.mark.parametrize("path", DEMO, ids=lambda path: path.stem)
def test_recipes_of_the_demo_load(path: Path) -> None:
    config = load(path, "--sources", '[{"path": "shards", "weight": 0.5}]')
    assert config.sources[0].weight == 0.5
    assert config.steps and config.warmup_steps < config.steps


def test_align_has_the_papers_numbers() -> None:
    config = load(ROOT / "recipes" / "align.yaml")
    assert (config.stage, config.lr, config.warmup_steps) == ("aligned", 3e-5, 500)
    assert (config.steps, config.batch_tokens, config.context) == (5960, 2**23, 4096)
    assert config.steps * config.batch_tokens == pytest.approx(50e9, rel=0.01)
    assert [source.weight for source in config.sources] == [0.5, 0.5]  # of the tokens
    assert config.cm3


def test_instruct_has_the_papers_numbers() -> None:
    config = load(ROOT / "recipes" / "instruct.yaml")
    assert (config.stage, config.lr, config.warmup_steps) == ("instructed", 1e-5, 300)
    assert (config.epochs, config.steps, config.batch_tokens, config.context) == (15, None, 2**20, 4096)
    assert (config.checkpoint_every, config.keep_checkpoints) == ("epoch", 0)
    assert config.cm3


def test_options_win_over_the_recipe() -> None:
    config = load(ROOT / "recipes" / "align.yaml", "--lr", "1e-4", "--batch-tokens=4096", "--cm3", "false")
    assert (config.lr, config.batch_tokens, config.cm3, config.warmup_steps) == (1e-4, 4096, False, 500)
    assert config.model == "parent"


def test_steps_and_epochs_replace_each_other() -> None:
    """On the command line one takes the place of the recipe's other; both there are still one too many."""
    align, instruct = ROOT / "recipes" / "align.yaml", ROOT / "recipes" / "instruct.yaml"
    config = load(instruct, "--steps", "20")
    assert (config.steps, config.epochs) == (20, None)
    config = load(align, "--epochs=0.5")
    assert (config.steps, config.epochs) == (None, 0.5)
    assert load(instruct, "--epochs", "2").epochs == 2
    with pytest.raises(ValueError, match="either steps or epochs"):
        load(align, "--steps", "3", "--epochs", "2")


@pytest.mark.slow
def test_instruct_saves_a_checkpoint_each_epoch(tmp_path: Path) -> None:
    """The paper's recipe, on tiny documents and a tiny model: 15 checkpoints and the result."""
    made = tiny_model(tmp_path / "parent")
    rng = np.random.default_rng(0)
    for _ in prepare([Document(content=random_parts(rng)) for _ in range(12)], made.codec, tmp_path / "shards"):
        pass
    config = load(
        ROOT / "recipes" / "instruct.yaml",
        *("--sources", str(tmp_path / "shards")),
        *("--context", "64", "--batch-tokens", "64", "--precision", "fp32", "--warmup-steps", "1"),
    )
    config.out = str(tmp_path / "run")
    trainer = Trainer(made.joint, config, lambda *_: None)
    steps = [report.step for report in trainer.train()]
    checkpoints = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert len(checkpoints) == 15
    assert checkpoints[-1] == f"step-{steps[-1]:06d}"
