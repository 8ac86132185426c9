"""Trains the built-in image tokenizer: a small `diffusers.VQModel` on pictures of the built-in world."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import VQModel

from jam.tutorials.scenes import random_scene
from jam.tutorials.things import RESOLUTION

CODES = 1024


def build_tokenizer() -> VQModel:
    """An untrained tokenizer, f8: 64 x 64 pixels to 8 x 8 codes of `CODES`."""
    return VQModel(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 16, 32, 64),
        layers_per_block=1,
        latent_channels=32,
        vq_embed_dim=32,
        num_vq_embeddings=CODES,
        norm_num_groups=8,
        sample_size=RESOLUTION,
        mid_block_add_attention=False,
    )


def train_tokenizer(steps: int = 2400, batch_size: int = 16, lr: float = 2e-3, seed: int = 0) -> Iterator[tuple[int, float, VQModel]]:
    """Yields (step, loss, model) after every step.

    The first third trains the autoencoder without a codebook; k-means on its latents then gives the codebook, so that no
    code starts dead; the rest trains with straight-through gradients (VQ-VAE, van den Oord et al., 2017).
    """
    torch.manual_seed(seed)
    pictures = _pictures(6000, seed)
    model = build_tokenizer().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.05)
    generator = torch.Generator().manual_seed(seed)
    warm = steps // 3
    for step in range(1, steps + 1):
        batch = pictures[torch.randint(len(pictures), (batch_size,), generator=generator)]
        pixels = (batch.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        latents = model.encode(pixels).latents
        commitment = torch.zeros(())
        if step > warm:
            latents, commitment, _ = model.quantize(latents)
        decoded = model.decoder(model.post_quant_conv(latents))
        loss = F.l1_loss(decoded, pixels) + F.mse_loss(decoded, pixels) + commitment
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step == warm:
            _initialise_codebook(model, pictures[:4000], generator)
        yield step, loss.item(), model


def _pictures(count: int, seed: int) -> torch.Tensor:
    """Pictures after any number of steps, uint8 ``[count, 3, 64, 64]``."""
    rng = random.Random(seed)
    pictures = []
    while len(pictures) < count:
        scene = random_scene(rng)
        pictures.append(np.asarray(scene.first(rng.randint(1, len(scene.parts))).draw()))
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


@torch.no_grad()
def _initialise_codebook(model: VQModel, pictures: torch.Tensor, generator: torch.Generator, rounds: int = 8) -> None:
    latents = torch.cat([model.encode(part.float() / 127.5 - 1).latents for part in pictures.split(200)])
    points = latents.permute(0, 2, 3, 1).flatten(0, 2)
    # Four in five patches are plain background: start from patches that differ in pixels.
    patches = F.pixel_unshuffle(pictures.float(), 8).permute(0, 2, 3, 1).flatten(0, 2)
    _, groups = torch.unique(patches, dim=0, return_inverse=True)
    counts = torch.bincount(groups)
    weights = 1.0 / counts[groups]
    chosen = torch.multinomial(weights, 20_000, generator=generator)
    points = points[chosen]
    centres = points[torch.randperm(len(points), generator=generator)[:CODES]]
    for _ in range(rounds):
        nearest = torch.cdist(points, centres).argmin(1)
        totals = torch.zeros_like(centres).index_add_(0, nearest, points)
        sizes = torch.bincount(nearest, minlength=len(centres)).unsqueeze(1)
        refill = points[torch.randint(len(points), (len(centres),), generator=generator)]
        centres = torch.where(sizes > 0, totals / sizes.clamp(min=1), refill)
    model.quantize.embedding.weight.copy_(centres)


@torch.no_grad()
def _initialise_codebook_u(model: VQModel, pictures: torch.Tensor, generator: torch.Generator, rounds: int = 8) -> None:
    latents = torch.cat([model.encode(F.pixel_unshuffle(part.float() / 127.5 - 1,8)).latents for part in pictures.split(200)])
    points = latents.permute(0, 2, 3, 1).flatten(0, 2)
    # Four in five patches are plain background: start from patches that differ in pixels.
    patches = F.pixel_unshuffle(pictures.float(), 8).permute(0, 2, 3, 1).flatten(0, 2)
    _, groups = torch.unique(patches, dim=0, return_inverse=True)
    counts = torch.bincount(groups)
    weights = 1.0 / counts[groups]
    chosen = torch.multinomial(weights, 20_000, generator=generator)
    points = points[chosen]
    centres = points[torch.randperm(len(points), generator=generator)[:len(model.quantize.embedding.weight)]]
    for _ in range(rounds):
        nearest = torch.cdist(points, centres).argmin(1)
        totals = torch.zeros_like(centres).index_add_(0, nearest, points)
        sizes = torch.bincount(nearest, minlength=len(centres)).unsqueeze(1)
        refill = points[torch.randint(len(points), (len(centres),), generator=generator)]
        centres = torch.where(sizes > 0, totals / sizes.clamp(min=1), refill)
    model.quantize.embedding.weight.copy_(centres)
