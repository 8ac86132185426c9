"""The autoencoder, a `diffusers.VQModel`: building, encoding, quantising and decoding.

Shapes: N pictures, R pixels of a side, h codes of a side, c width of a code.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from jam.tokenizer_training.config import TokenizerConfig


def build_tokenizer(config: TokenizerConfig) -> Any:
    """An untrained `VQModel` of the recipe's shape, with weights that depend only on the seed."""
    from diffusers import VQModel

    levels = len(config.channels)
    down, up = ["DownEncoderBlock2D"] * levels, ["UpDecoderBlock2D"] * levels
    if config.attention:
        down[-1], up[0] = "AttnDownEncoderBlock2D", "AttnUpDecoderBlock2D"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model: Any = VQModel(
            in_channels=3 * config.patch**2,
            out_channels=3 * config.patch**2,
            down_block_types=tuple(down),
            up_block_types=tuple(up),
            block_out_channels=tuple(config.channels),
            layers_per_block=config.layers_per_block,
            latent_channels=config.latent_channels,
            vq_embed_dim=config.code_channels,
            num_vq_embeddings=config.codebook_size,
            norm_num_groups=config.norm_groups,
            sample_size=config.resolution // config.patch,
            mid_block_add_attention=config.attention,
        )
    model.quantize.legacy = False  # else 0.25 multiplies the codebook loss
    return model


def encode(model: Any, pixels: Tensor) -> Tensor:
    """Pixels [N, 3, R, R] in -1 .. 1 to latents [N, c, h, h]."""
    return model.encode(F.pixel_unshuffle(pixels, _patch(model.config.in_channels))).latents


def decode(model: Any, latents: Tensor) -> Tensor:
    """Latents, quantised or not, to pixels."""
    blocks = model.decoder(model.post_quant_conv(latents))
    return F.pixel_shuffle(blocks, _patch(model.config.out_channels))


def quantise(model: Any, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The nearest codes with a straight-through gradient, the loss, and the codes' numbers [N h h].

    For a model of `build_tokenizer`, the loss is ``|sg(z) - e|^2 + 0.25 |z - sg(e)|^2`` (VQ-VAE, van den Oord et al.,
    2017, equation 3).
    """
    quantised, loss, (_, _, codes) = model.quantize(latents.float())
    return quantised, loss, codes.flatten()


def _patch(channels: int) -> int:
    return math.isqrt(channels // 3)
