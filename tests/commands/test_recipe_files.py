"""Every file of recipes/ loads by its command, is in the table of recipes/README.md, and has the paper's numbers."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from jam.commands import COMMANDS, parse
from jam.fusion.config import FuseConfig
from jam.models import CrossConfig
from jam.planning.network import read_config
from jam.tokenizer_training import TokenizerConfig
from jam.training import TrainConfig

FOLDER = Path(__file__).parents[2] / "recipes"
TABLE = re.findall(r"^\| `([^`]+)` \| `jam ([a-z-]+)` \|", (FOLDER / "README.md").read_text(), re.MULTILINE)
NEEDED = {
    "fuse": ["--text", "text", "--image", "image", "--out", "fused"],
    "train": ["--model", "fused", "--out", "run"],
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
def test_it_loads(name: str) -> None:
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
