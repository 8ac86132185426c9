"""Small pictures, and recipes of tokenizers that learn them in a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jam.tokenizer_training import PictureSource, TokenizerConfig


def smooth_picture(rng: np.random.Generator, size: tuple[int, int] = (20, 16)) -> Image.Image:
    """A gradient between two colours, which a small network can learn."""
    width, height = size
    first, second = rng.integers(0, 256, (2, 3))
    share = np.linspace(0, 1, width)[None, :, None]
    return Image.fromarray(np.broadcast_to((1 - share) * first + share * second, (height, width, 3)).astype(np.uint8))


def folder(path: Path, count: int = 24, seed: int = 0) -> Path:
    """Pictures in a folder and in one below it."""
    rng = np.random.default_rng(seed)
    (path / "more").mkdir(parents=True)
    for number in range(count):
        name = path / ("more" if number % 3 == 0 else ".") / f"{seed}-{number:03d}.png"
        smooth_picture(rng).save(name)
    return path


def recipe(source: Path, out: Path, **changes: Any) -> TokenizerConfig:
    values: dict[str, Any] = {"resolution": 16, "patch": 2, "channels": [16, 16], "layers_per_block": 1, "held_out": 4}
    values |= {"attention": False, "latent_channels": 8, "code_channels": 4, "codebook_size": 16, "norm_groups": 4}
    values |= {"steps": 8, "batch_size": 4, "lr": 3e-3, "warmup_steps": 1, "codebook_from": 2, "revive_every": 2}
    values |= {"adversarial_from": 5, "discriminator_channels": 8, "device": "cpu", "workers": 1}
    return TokenizerConfig(out=str(out), sources=[PictureSource(str(source))], **(values | changes))
