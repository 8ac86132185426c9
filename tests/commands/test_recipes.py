"""Every recipe loads by its command; the table of recipes/ names it; its numbers are the paper's (docs/method.md)."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jam.commands import COMMANDS, parse
from jam.data import prepare
from jam.documents import Document
from jam.fusion.config import FuseConfig
from jam.models import CrossConfig
from jam.planning.network import read_config
from jam.tokenizer_training import TokenizerConfig
from jam.training import TrainConfig, Trainer
from support import tiny

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "recipes"
DEMO = sorted((ROOT / "src" / "jam" / "demo" / "recipes").glob("*.yaml"))
TABLE = re.findall(r"^\| `([^`]+)` \| `jam ([a-z-]+)` \|", (FOLDER / "README.md").read_text(), re.MULTILINE)
NEEDED = {
    "fuse": ["--text", "text", "--image", "image", "--out", "fused"],
    "train": ["--model", "parent", "--out", "run"],
    "train-tokenizer": ["--out", "run"],
}


def load(name: str, *more: str) -> Any:
    command = dict(TABLE)[name]
    named, settings = parse([command, str(FOLDER / name), *NEEDED[command], *more])
    return COMMANDS[named].read_config(settings)


def test_the_table_lists_every_recipe_once() -> None:
    there = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.yaml"))
    assert sorted(name for name, _ in TABLE) == there


@pytest.mark.parametrize("name", [name for name, _ in TABLE])
def test_a_recipe_loads(name: str) -> None:
    kinds = {"fuse": FuseConfig, "train": TrainConfig, "train-tokenizer": TokenizerConfig}
    config = load(name)
    assert isinstance(config, kinds[dict(TABLE)[name]])
    if isinstance(config, TrainConfig):
        assert config.sources and config.cm3 and (config.steps is None or config.warmup_steps < config.steps)


def differences(first: Any, second: Any) -> set[str]:
    return {key for key, value in asdict(first).items() if asdict(second)[key] != value}


def test_table_3_varies_the_blocks_off_the_diagonal() -> None:
    copy, average = load("fuse/width-copy.yaml"), load("fuse/width-average.yaml")
    assert (copy.method, copy.init, average.init) == ("width", "copy", "average")
    assert differences(copy, average) == {"init"}


def test_table_4_varies_where_the_towers_exchange() -> None:
    configs = {every: load(f"fuse/cross-{every or 'none'}.yaml") for every in (0, 1, 2, 4)}
    for every, config in configs.items():
        assert (config.method, config.every, config.readout) == ("cross", every, "paper")
        assert differences(config, configs[2]) <= {"every"}


def test_ablations_of_fusions_have_half_of_the_tokens() -> None:
    whole, half = load("align.yaml"), load("align-25b.yaml")
    assert differences(whole, half) == {"steps"}
    assert half.steps * half.batch_tokens == pytest.approx(25e9, rel=0.01)


def test_table_5_varies_the_mixture() -> None:
    mixed, pure = load("instruct.yaml"), load("instruct-no-mix.yaml")
    assert differences(mixed, pure) == {"sources"}
    assert [source.path for source in pure.sources] == [mixed.sources[0].path]


def test_laptop_recipes_are_small() -> None:
    for name in ("align-laptop.yaml", "instruct-laptop.yaml"):
        config = load(name)
        assert config.batch_tokens <= 2**14 and config.context <= 1024 and config.precision == "fp32"


def test_frozen_towers() -> None:
    config = load("frozen-towers.yaml")
    assert (config.train, config.dtype, config.activation_checkpointing) == ("cross", "bfloat16", True)


def test_image_tokenizers() -> None:
    """CM3Leon's: f8, 256 x 256 pixels to 1,024 of 8,192 codes."""
    paper, laptop = load("image-tokenizer.yaml"), load("image-tokenizer-64.yaml")
    assert (paper.factor, paper.resolution, paper.grid**2, paper.codebook_size) == (8, 256, 1024, 8192)
    assert paper.adversarial_weight > 0 and paper.perceptual_weight > 0
    assert (laptop.resolution, laptop.grid**2, laptop.codebook_size) == (64, 256, 1024)


@pytest.mark.parametrize("path", sorted((FOLDER / "models").iterdir()), ids=lambda path: path.name)
def test_models_are_the_papers(path: Path) -> None:
    config = read_config(path)
    text = config.text_config if isinstance(config, CrossConfig) else config
    assert (text.num_hidden_layers, text.max_position_embeddings) == (32, 4096)
    assert config.vocab_size == 56_320 + 8_192 + 514


def test_align_has_the_papers_numbers() -> None:
    config = load("align.yaml")
    assert (config.stage, config.lr, config.warmup_steps) == ("aligned", 3e-5, 500)
    assert (config.steps, config.batch_tokens, config.context) == (5960, 2**23, 4096)
    assert config.steps * config.batch_tokens == pytest.approx(50e9, rel=0.01)
    assert [source.weight for source in config.sources] == [0.5, 0.5]  # of the tokens
    assert config.cm3


def test_instruct_has_the_papers_numbers() -> None:
    config = load("instruct.yaml")
    assert (config.stage, config.lr, config.warmup_steps) == ("instructed", 1e-5, 300)
    assert (config.epochs, config.steps, config.batch_tokens, config.context) == (15, None, 2**20, 4096)
    assert (config.checkpoint_every, config.keep_checkpoints) == ("epoch", 0)
    assert config.cm3


def test_options_win_over_the_recipe() -> None:
    config = load("align.yaml", "--lr", "1e-4", "--batch-tokens=4096", "--cm3", "false")
    assert (config.lr, config.batch_tokens, config.cm3, config.warmup_steps) == (1e-4, 4096, False, 500)
    assert config.model == "parent"


def test_steps_and_epochs_replace_each_other() -> None:
    """On the command line one takes the place of the recipe's other; both there are still one too many."""
    config = load("instruct.yaml", "--steps", "20")
    assert (config.steps, config.epochs) == (20, None)
    config = load("align.yaml", "--epochs=0.5")
    assert (config.steps, config.epochs) == (None, 0.5)
    assert load("instruct.yaml", "--epochs", "2").epochs == 2
    with pytest.raises(ValueError, match="either steps or epochs"):
        load("align.yaml", "--steps", "3", "--epochs", "2")


@pytest.mark.slow
def test_instruct_saves_a_checkpoint_each_epoch(tmp_path: Path) -> None:
    """The paper's recipe, on tiny documents and a tiny model: 15 checkpoints and the result."""
    made = tiny.model(tmp_path / "parent")
    rng = np.random.default_rng(0)
    for _ in prepare([Document(content=tiny.random_parts(rng)) for _ in range(12)], made.codec, tmp_path / "shards"):
        pass
    config = load(
        "instruct.yaml",
        *("--sources", str(tmp_path / "shards")),
        *("--context", "64", "--batch-tokens", "64", "--precision", "fp32", "--warmup-steps", "1"),
    )
    config.out = str(tmp_path / "run")
    trainer = Trainer(made.joint, config, lambda *_: None)
    steps = [report.step for report in trainer.train()]
    checkpoints = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert len(checkpoints) == 15
    assert checkpoints[-1] == f"step-{steps[-1]:06d}"


# --- the demo's -------------------------------------------------------------------------------------------------------


def test_recipes_of_the_demo_are_there() -> None:
    assert {"align", "instruct", "instruct-long"} <= {path.stem for path in DEMO}


@pytest.mark.parametrize("path", DEMO, ids=lambda path: path.stem)
def test_recipes_of_the_demo_load(path: Path) -> None:
    named, settings = parse(["train", str(path), *NEEDED["train"], "--sources", "shards:0.5"])
    config = COMMANDS[named].read_config(settings)
    assert config.sources[0].weight == 0.5
    assert config.steps and config.warmup_steps < config.steps
