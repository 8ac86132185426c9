"""Training of the built-in image tokenizer, a small `diffusers.VQModel` on blocks of the built-in world's pictures.

It codes tiles of 8 x 8 pixels one by one, so that a code depends only on its own block: codes that depend on neighbours
reconstruct as well, but are hard to predict for the model that writes them (docs/demo-world.md).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from jam.tokenizer_training import PictureSource, TokenizerConfig
from jam.tokenizer_training.network import build_tokenizer, decode, encode, quantise
from jam.tutorials.scenes import random_scene

CODES = 512
PATCH = 8  # pixels
PICTURES = 8000


def build_image_tokenizer(seed: int = 0) -> Any:
    """An untrained tokenizer, f8: 64 x 64 pixels to 8 x 8 codes, one code per tile."""
    return build_tokenizer(
        TokenizerConfig(
            out="",
            sources=[PictureSource("the built-in world")],
            resolution=PATCH,
            patch=PATCH,
            channels=[64],
            layers_per_block=1,
            attention=False,
            latent_channels=16,
            code_channels=16,
            codebook_size=CODES,
            norm_groups=8,
            seed=seed,
        )
    )


def train_image_tokenizer(
    model: Any, steps: int, batch_size: int = 256, lr: float = 3e-3, seed: int = 0
) -> Iterator[float]:
    """Train `model` (a `VQModel`) in place, and yield the loss after every step.

    Blocks are drawn by the root of their frequency, so that the background does not dominate. The first third of the
    steps trains without a codebook. Then the latents of the most frequent blocks become the codes, and the other steps
    train with straight-through gradients (VQ-VAE, van den Oord et al., 2017).
    """
    generator = torch.Generator().manual_seed(seed)
    blocks, counts = distinct_blocks(PICTURES, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    warm = steps // 3
    for step in range(steps):
        if step == warm:
            _initialise_codebook(model, blocks, counts)
        batch = blocks[torch.multinomial(counts.sqrt(), batch_size, replacement=True, generator=generator)]
        latents = encode(model, batch)
        commitment = torch.zeros(())
        if step >= warm:
            latents, commitment, _ = quantise(model, latents)
        difference = decode(model, latents) - batch
        loss = difference.abs().mean() + difference.square().mean() + commitment
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        yield loss.item()


def distinct_blocks(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """The distinct blocks of `count` pictures, -1 .. 1, ``[blocks, 3, 8, 8]``, and their numbers of occurrences."""
    rng = random.Random(seed)
    drawn = []
    for _ in range(count):
        scene = random_scene(rng)
        drawn.append(np.asarray(scene.first(rng.randint(1, len(scene.parts))).draw()))
    grids = F.pixel_unshuffle(torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2), PATCH)
    blocks, counts = torch.unique(grids.permute(0, 2, 3, 1).flatten(0, 2), dim=0, return_counts=True)
    return F.pixel_shuffle(blocks.float()[:, :, None, None], PATCH) / 127.5 - 1, counts.float()


@torch.no_grad()
def _initialise_codebook(model: Any, blocks: Tensor, counts: Tensor) -> None:
    """Set the codes to the latents of the most frequent blocks; remaining codes are far away and stay unused."""
    frequent = counts.argsort(descending=True)[:CODES]
    codebook = model.quantize.embedding.weight
    codebook.fill_(1000.0)
    codebook[: len(frequent)] = encode(model, blocks[frequent]).flatten(1)
