"""Trains the built-in image tokenizer: a small `diffusers.VQModel` on pictures of the built-in world."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import VQModel
from torch import Tensor

from jam.tutorials.scenes import random_scene

CODES = 1024
PATCH = 8  # pixels; the model reads 8 x 8 blocks of 64 x 64 pictures
PICTURES = 8000
REVIVE_EVERY = 100
BACKGROUND_WEIGHT = 0.2  # four in five blocks are plain background


def build_tokenizer() -> VQModel:
    """An untrained tokenizer, f8: 64 x 64 pixels to 8 x 8 codes."""
    return VQModel(
        in_channels=3 * PATCH**2,
        out_channels=3 * PATCH**2,
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(64,),
        layers_per_block=1,
        latent_channels=16,
        vq_embed_dim=16,
        num_vq_embeddings=CODES,
        norm_num_groups=8,
        sample_size=8,
        mid_block_add_attention=False,
    )


def train_tokenizer(steps: int, batch_size: int = 32, lr: float = 3e-3, seed: int = 0) -> Iterator[tuple[float, VQModel]]:
    """Yields (loss, model) after every step.

    The first third trains the autoencoder without a codebook; k-means on its latents then gives the codebook, so that few
    codes start dead; the rest trains with straight-through gradients (VQ-VAE, van den Oord et al., 2017).
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    blocks = _blocks(PICTURES, seed)
    model = build_tokenizer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    warm = steps // 3
    usage = torch.zeros(CODES, dtype=torch.long)
    for step in range(steps):
        if step == warm:
            _initialise_codebook(model, blocks[:4000], generator)
        batch = _scaled(blocks[torch.randint(len(blocks), (batch_size,), generator=generator)])
        weights = 1 - (1 - BACKGROUND_WEIGHT) * (batch.amin(1, keepdim=True) > 0.9).float()
        weights = weights / weights.mean()
        latents = model.encode(batch).latents
        commitment = torch.zeros(())
        if step >= warm:
            latents, commitment, nearest = _quantize(model, latents, weights)
            usage += torch.bincount(nearest, minlength=CODES)
            if (step - warm) % REVIVE_EVERY == REVIVE_EVERY - 1 and step < 2 * warm:
                _revive(model, batch, usage, generator)
                usage.zero_()
        difference = model.decoder(model.post_quant_conv(latents)) - batch
        loss = ((difference.abs() + difference.square()) * weights).mean() + commitment
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        yield loss.item(), model


def _blocks(count: int, seed: int) -> Tensor:
    """Pictures after any number of steps as 8 x 8 blocks, uint8 ``[count, 192, 8, 8]``."""
    rng = random.Random(seed)
    pictures = []
    while len(pictures) < count:
        scene = random_scene(rng)
        if scene.size == "big" and rng.random() < 0.5:
            continue  # small things are harder: their parts share blocks
        pictures.append(np.asarray(scene.first(rng.randint(1, len(scene.parts))).draw()))
    return F.pixel_unshuffle(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2), PATCH)


def _scaled(blocks: Tensor) -> Tensor:
    return blocks.float() / 127.5 - 1


def _quantize(model: VQModel, latents: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Nearest codes with straight-through gradients, the weighted codebook and commitment losses, and the codes."""
    points = latents.permute(0, 2, 3, 1)
    codebook = model.quantize.embedding
    nearest = torch.cdist(points.detach().flatten(0, 2), codebook.weight.detach()).argmin(1)
    chosen = codebook(nearest).view_as(points)
    pull = (chosen - points.detach()).square() + 0.25 * (chosen.detach() - points).square()
    loss = (pull.mean(-1) * weights.squeeze(1)).mean()
    return (points + (chosen - points).detach()).permute(0, 3, 1, 2), loss, nearest


@torch.no_grad()
def _revive(model: VQModel, batch: Tensor, usage: Tensor, generator: torch.Generator) -> None:
    """Move codes that were not used to latents which are far from all codes."""
    points = model.encode(batch).latents.permute(0, 2, 3, 1).flatten(0, 2)
    codebook = model.quantize.embedding.weight
    error = torch.cdist(points, codebook).min(1).values.square()
    dead = (usage == 0).nonzero()[:, 0]
    dead = dead[: int((error > error.mean()).sum())]
    if len(dead):
        codebook[dead] = points[torch.multinomial(error, len(dead), generator=generator)]


@torch.no_grad()
def _initialise_codebook(model: VQModel, blocks: Tensor, generator: torch.Generator, rounds: int = 8) -> None:
    """k-means on latents of blocks that are drawn evenly over the different patches of pixels."""
    points = torch.cat([model.encode(_scaled(part)).latents for part in blocks.split(500)])
    points = points.permute(0, 2, 3, 1).flatten(0, 2)
    _, group = torch.unique(blocks.permute(0, 2, 3, 1).flatten(0, 2), dim=0, return_inverse=True)
    chosen = torch.multinomial(1.0 / torch.bincount(group)[group], 20_000, generator=generator)
    points = points[chosen]
    centres = points[torch.randperm(len(points), generator=generator)[:CODES]]
    for _ in range(rounds):
        nearest = torch.cdist(points, centres).argmin(1)
        totals = torch.zeros_like(centres).index_add_(0, nearest, points)
        sizes = torch.bincount(nearest, minlength=CODES).unsqueeze(1)
        elsewhere = points[torch.randint(len(points), (CODES,), generator=generator)]
        centres = torch.where(sizes > 0, totals / sizes.clamp(min=1), elsewhere)
    model.quantize.embedding.weight.copy_(centres)
