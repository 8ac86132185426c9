"""The classes of image tokenizers that there are: how each fits a picture, encodes and decodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image

from jam.codec.description import patch_size


def cropped(picture: Image.Image, side: int, filter: Image.Resampling = Image.Resampling.LANCZOS) -> Image.Image:
    """The short side resized to `side`, then the central square: Chameleon's image processor does the same."""
    width, height = (max(side, int(side * length / min(picture.size))) for length in picture.size)
    if (width, height) != picture.size:
        picture = picture.resize((width, height), filter)
    left, top = (width - side) // 2, (height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def padded(picture: Image.Image, side: int, least: int = 14) -> Image.Image:
    """The long side resized to `side`, in the middle of a grey square: Janus's image processor does the same."""
    width, height = (max(round(length * side / max(picture.size)), least) for length in picture.size)
    if (width, height) != picture.size:
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    square = Image.new("RGB", (side, side), (127, 127, 127))
    square.paste(picture, ((side - width) // 2, (side - height) // 2))
    return square


class DiffusersVQ:
    """`diffusers.VQModel`.

    One with 3 s^2 input channels reads blocks of s x s pixels (space to depth). A picture that is larger than the
    model's `sample_size` is coded tile by tile.
    """

    fit = staticmethod(cropped)

    @staticmethod
    def load(folder: Path, dtype: torch.dtype) -> torch.nn.Module:
        from diffusers import VQModel
        from diffusers.utils import logging

        logging.set_verbosity_error()  # it warns of its own cast to float32
        return VQModel.from_pretrained(folder, low_cpu_mem_usage=False, torch_dtype=dtype)

    @staticmethod
    def encode(model: Any, pixels: torch.Tensor) -> torch.Tensor:
        blocks = F.pixel_unshuffle(pixels, patch_size(model.config.in_channels))
        tiles, side = split_tiles(blocks, model.config.sample_size)
        latents = model.encode(tiles).latents
        _, _, (_, _, indices) = model.quantize(latents)
        return join_tiles(indices.view(len(tiles), 1, *latents.shape[-2:]), side).squeeze(1)

    @staticmethod
    def decode(model: Any, codes: torch.Tensor) -> torch.Tensor:
        factor = 2 ** (len(model.config.block_out_channels) - 1)
        tiles, side = split_tiles(codes.unsqueeze(1), max(1, model.config.sample_size // factor))
        latents = model.quantize.embedding(tiles.squeeze(1)).permute(0, 3, 1, 2)
        blocks = join_tiles(model.decode(latents, force_not_quantize=True).sample, side)
        return F.pixel_shuffle(blocks, patch_size(model.config.out_channels))


def split_tiles(grid: torch.Tensor, tile: int) -> tuple[torch.Tensor, int]:
    """``[N, C, H, H]`` to tiles ``[N n n, C, tile, tile]`` in raster order, and n; one tile stays as it is."""
    count, channels, height, _ = grid.shape
    side = max(1, height // tile)
    size = height // side
    tiles = grid.reshape(count, channels, side, size, side, size).permute(0, 2, 4, 1, 3, 5)
    return tiles.reshape(-1, channels, size, size), side


def join_tiles(tiles: torch.Tensor, side: int) -> torch.Tensor:
    """The inverse of `split_tiles`."""
    channels, size = tiles.shape[1], tiles.shape[2]
    grid = tiles.reshape(-1, side, side, channels, size, size).permute(0, 3, 1, 4, 2, 5)
    return grid.reshape(-1, channels, side * size, side * size)


class JanusVQ:
    fit = staticmethod(padded)

    @staticmethod
    def load(folder: Path, dtype: torch.dtype) -> torch.nn.Module:
        from transformers import JanusVQVAE

        return JanusVQVAE.from_pretrained(folder, dtype=dtype)

    @staticmethod
    def encode(model: Any, pixels: torch.Tensor) -> torch.Tensor:
        return model.encode(pixels).image_tokens.reshape(len(pixels), -1)

    @staticmethod
    def decode(model: Any, codes: torch.Tensor) -> torch.Tensor:
        return model.decode(codes.flatten(1))


class Emu3VQ:
    @staticmethod
    def fit(picture: Image.Image, side: int) -> Image.Image:
        """Emu3's own processor keeps the shape of a picture; the grid here is one square."""
        return cropped(picture, side, Image.Resampling.BICUBIC)

    @staticmethod
    def load(folder: Path, dtype: torch.dtype) -> torch.nn.Module:
        from transformers import Emu3VQVAE

        return Emu3VQVAE.from_pretrained(folder, dtype=dtype)

    @staticmethod
    def encode(model: Any, pixels: torch.Tensor) -> torch.Tensor:
        sizes = torch.tensor([pixels.shape[-2:]] * len(pixels))
        return torch.stack(list(model.encode(pixels, sizes).image_tokens))

    @staticmethod
    def decode(model: Any, codes: torch.Tensor) -> torch.Tensor:
        return model.decode(codes)


class ChameleonVQ:
    fit = staticmethod(cropped)

    @staticmethod
    def load(folder: Path, dtype: torch.dtype) -> torch.nn.Module:
        from jam.codec.chameleon_vqgan import ChameleonVQGAN

        return ChameleonVQGAN.from_pretrained(folder, dtype=dtype)

    @staticmethod
    def encode(model: Any, pixels: torch.Tensor) -> torch.Tensor:
        return model.encode(pixels).image_tokens

    @staticmethod
    def decode(model: Any, codes: torch.Tensor) -> torch.Tensor:
        return model.decode(codes)


CODERS: dict[str, Any] = {
    "VQModel": DiffusersVQ,
    "janus_vqgan": JanusVQ,
    "emu3_vqgan": Emu3VQ,
    "jam_chameleon_vqgan": ChameleonVQ,
}
