"""The kinds of image tokenizers that there are: how each is described, fits a picture, encodes and decodes.

Torch is imported when a tokenizer is loaded: a description needs none.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from jam.checkpoints.tensors import check_loaded
from jam.codec.files import read_processor
from jam.codec.info import ImageTokenizerInfo, patch_size

if TYPE_CHECKING:
    import torch


class Coder(ABC):
    """A kind of image tokenizer. A new one is a class of this, and a line in `CODERS`."""

    @staticmethod
    @abstractmethod
    def describe(kind: str, folder: Path, config: Mapping[str, Any]) -> ImageTokenizerInfo:
        """What the config.json of a folder says; of a damaged one, `int` and the keys raise what they like."""

    @staticmethod
    @abstractmethod
    def fit(picture: Image.Image, side: int) -> Image.Image:
        """An RGB picture as a square of `side` pixels."""

    @staticmethod
    @abstractmethod
    def load(folder: Path, dtype: torch.dtype) -> torch.nn.Module:
        """The network with its weights."""

    @staticmethod
    @abstractmethod
    def encode(model: Any, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels ``[N, 3, height, width]`` in -1 .. 1 to codes, int64, ``[N, h, w]`` or ``[N, h w]``."""

    @staticmethod
    @abstractmethod
    def decode(model: Any, codes: torch.Tensor) -> torch.Tensor:
        """Codes ``[N, h, w]`` to pixels ``[N, 3, height, width]`` in -1 .. 1."""


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


def loaded(network_class: Any, folder: Path, **options: Any) -> torch.nn.Module:
    """A network with all of its weights; weights that a folder lacks would be random numbers."""
    network, info = network_class.from_pretrained(folder, output_loading_info=True, **options)
    check_loaded(info, str(folder))
    return network


class DiffusersVQ(Coder):
    """`diffusers.VQModel`.

    One with 3 s^2 input channels reads blocks of s x s pixels (space to depth). A picture that is larger than the
    model's `sample_size` is coded tile by tile.
    """

    fit = staticmethod(cropped)

    @staticmethod
    def describe(kind: str, folder: Path, config: Mapping[str, Any]) -> ImageTokenizerInfo:
        patch = patch_size(int(config["in_channels"]))
        size = read_processor(folder).get("size")  # which may ask for larger pictures, coded tile by tile
        resolution = int(size["height"]) if size else int(config["sample_size"]) * patch
        side = resolution // (patch * 2 ** (len(config["block_out_channels"]) - 1))
        return ImageTokenizerInfo(kind, int(config["num_vq_embeddings"]), (side, side), resolution)

    @staticmethod
    def load(folder: Path, dtype: torch.dtype) -> torch.nn.Module:
        from diffusers import VQModel
        from diffusers.utils import logging

        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # it warns of its own cast to float32
        try:
            return loaded(VQModel, folder, low_cpu_mem_usage=False, torch_dtype=dtype)
        finally:
            logging.set_verbosity(verbosity)

    @staticmethod
    def encode(model: Any, pixels: torch.Tensor) -> torch.Tensor:
        import torch.nn.functional as F

        blocks = F.pixel_unshuffle(pixels, patch_size(model.config.in_channels))
        tiles, side = split_tiles(blocks, model.config.sample_size)
        latents = model.encode(tiles).latents
        _, _, (_, _, indices) = model.quantize(latents)
        return join_tiles(indices.view(len(tiles), 1, *latents.shape[-2:]), side).squeeze(1)

    @staticmethod
    def decode(model: Any, codes: torch.Tensor) -> torch.Tensor:
        import torch.nn.functional as F

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


class JanusVQ(Coder):
    fit = staticmethod(padded)

    @staticmethod
    def describe(kind: str, folder: Path, config: Mapping[str, Any]) -> ImageTokenizerInfo:
        side = int(config["num_patches"])
        resolution = side * 2 ** (len(config["channel_multiplier"]) - 1)
        return ImageTokenizerInfo(kind, int(config["num_embeddings"]), (side, side), resolution)

    @staticmethod
    def load(folder: Path, dtype: torch.dtype) -> torch.nn.Module:
        from transformers import JanusVQVAE

        return loaded(JanusVQVAE, folder, dtype=dtype)

    @staticmethod
    def encode(model: Any, pixels: torch.Tensor) -> torch.Tensor:
        return model.encode(pixels).image_tokens.reshape(len(pixels), -1)

    @staticmethod
    def decode(model: Any, codes: torch.Tensor) -> torch.Tensor:
        return model.decode(codes.flatten(1))


class Emu3VQ(Coder):
    @staticmethod
    def fit(picture: Image.Image, side: int) -> Image.Image:
        """Emu3's own processor keeps the shape of a picture; the grid here is one square."""
        return cropped(picture, side, Image.Resampling.BICUBIC)

    @staticmethod
    def describe(kind: str, folder: Path, config: Mapping[str, Any]) -> ImageTokenizerInfo:
        factor = 2 ** (len(config["channel_multiplier"]) - 1)
        limits = read_processor(folder)  # by default, the processor's are one and four times 512 x 512
        least = math.isqrt(int(limits.get("min_pixels", 512**2)))
        resolution = int(config.get("sample_size", least // factor * factor))
        side = resolution // factor
        area = int(limits.get("min_pixels", resolution**2)), int(limits.get("max_pixels", 4 * resolution**2))
        return ImageTokenizerInfo(kind, int(config["codebook_size"]), (side, side), resolution, area)

    @staticmethod
    def load(folder: Path, dtype: torch.dtype) -> torch.nn.Module:
        from transformers import Emu3VQVAE

        return loaded(Emu3VQVAE, folder, dtype=dtype)

    @staticmethod
    def encode(model: Any, pixels: torch.Tensor) -> torch.Tensor:
        import torch

        sizes = torch.tensor([pixels.shape[-2:]] * len(pixels))
        return torch.stack(list(model.encode(pixels, sizes).image_tokens))

    @staticmethod
    def decode(model: Any, codes: torch.Tensor) -> torch.Tensor:
        return model.decode(codes)


class ChameleonVQ(Coder):
    fit = staticmethod(cropped)

    @staticmethod
    def describe(kind: str, folder: Path, config: Mapping[str, Any]) -> ImageTokenizerInfo:
        resolution = int(config["resolution"])
        side = resolution // 2 ** (len(config["channel_multiplier"]) - 1)
        area = resolution**2, resolution**2  # Lumina-mGPT's pictures have one area and many shapes
        return ImageTokenizerInfo(kind, int(config["num_embeddings"]), (side, side), resolution, area)

    @staticmethod
    def load(folder: Path, dtype: torch.dtype) -> torch.nn.Module:
        from jam.codec.chameleon_vqgan import ChameleonVQGAN

        return loaded(ChameleonVQGAN, folder, dtype=dtype)

    @staticmethod
    def encode(model: Any, pixels: torch.Tensor) -> torch.Tensor:
        return model.encode(pixels).image_tokens

    @staticmethod
    def decode(model: Any, codes: torch.Tensor) -> torch.Tensor:
        return model.decode(codes)


CODERS: dict[str, Coder] = {
    "VQModel": DiffusersVQ(),
    "janus_vqgan": JanusVQ(),
    "emu3_vqgan": Emu3VQ(),
    "jam_chameleon_vqgan": ChameleonVQ(),
}
