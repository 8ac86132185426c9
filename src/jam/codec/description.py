"""What the config.json of an image tokenizer says of its codes and pictures; needs neither torch nor `transformers`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jam.codec.files import holds_image_tokenizer, inner_config, read_processor
from jam.files import FileError, read_json, reading

KNOWN = ("VQModel", "emu3_vqgan", "jam_chameleon_vqgan", "janus_vqgan")  # keys of `coders.CODERS`


def patch_size(in_channels: int) -> int:
    """Side of the pixel blocks that a model with more than 3 input channels reads as one position."""
    side = math.isqrt(in_channels // 3)
    if 3 * side * side != in_channels:
        raise ValueError(f"in_channels is {in_channels}; RGB blocks of side s have 3 s * s channels")
    return side


@dataclass(frozen=True)
class ImageTokenizerInfo:
    """What a folder's ``config.json`` says of its image tokenizer.

    Args:
        kind: class of the tokenizer, a key of `coders.CODERS`.
        codebook_size: number of codes.
        grid: codes of a picture, (height, width).
        resolution: pixels of a picture's side.
        area: fewest and most pixels of a picture that keeps its shape; None: the tokenizer has one shape. It is no part
            of `hash`: codes of one shape do not depend on it.
    """

    kind: str
    codebook_size: int
    grid: tuple[int, int]
    resolution: int
    area: tuple[int, int] | None = field(default=None, repr=False)

    @property
    def pixels_per_code(self) -> int:
        """Pixels of a code's side."""
        return self.resolution // self.grid[0]


def describe_image_tokenizer(folder: str | Path) -> ImageTokenizerInfo:
    """Read codebook size and grid without loading weights.

    Args:
        folder: of an image tokenizer, or of a whole checkpoint that holds one (`codec.files.HOLDERS`).

    Raises:
        ValueError: there is none, or one of a class that is not known.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        hint = "; make one of vqgan.ckpt with `jam convert-tokenizer`" if any(Path(folder).glob("*.ckpt")) else ""
        raise ValueError(f"{folder}: no image tokenizer here (config.json is missing){hint}")
    config = read_json(path)
    if holds_image_tokenizer(folder):
        config = inner_config(folder).to_dict()
    with reading(path):
        return _described(Path(folder), path, config)


def _described(folder: Path, path: Path, config: dict[str, Any]) -> ImageTokenizerInfo:
    """What the config of an image tokenizer says; of a damaged one, `int` and the keys raise what they like."""
    kind = config.get("_class_name") or config.get("model_type")
    area = None
    match kind:
        case "VQModel":
            patch = patch_size(int(config["in_channels"]))
            resolution = _picture_size(folder) or int(config["sample_size"]) * patch
            side = resolution // (patch * 2 ** (len(config["block_out_channels"]) - 1))
            codes = int(config["num_vq_embeddings"])
        case "janus_vqgan":
            side = int(config["num_patches"])
            resolution = side * 2 ** (len(config["channel_multiplier"]) - 1)
            codes = int(config["num_embeddings"])
        case "emu3_vqgan":
            factor = 2 ** (len(config["channel_multiplier"]) - 1)
            limits = read_processor(folder)  # by default, the processor's are one and four times 512 x 512
            least = math.isqrt(int(limits.get("min_pixels", 512**2)))
            resolution = int(config.get("sample_size", least // factor * factor))
            side = resolution // factor
            codes = int(config["codebook_size"])
            area = int(limits.get("min_pixels", resolution**2)), int(limits.get("max_pixels", 4 * resolution**2))
        case "jam_chameleon_vqgan":
            resolution = int(config["resolution"])
            side = resolution // 2 ** (len(config["channel_multiplier"]) - 1)
            codes = int(config["num_embeddings"])
            area = resolution**2, resolution**2  # Lumina-mGPT's pictures have one area and many shapes
        case "chameleon_vqgan":
            raise FileError(
                f"{path}: this image tokenizer (ChameleonVQVAE) only encodes, so no picture could be shown; make "
                "a whole one of the original vqgan.ckpt with `jam convert-tokenizer`"
            )
        case "chameleon":
            raise FileError(f"{path}: this is a whole model; make its image tokenizer with `jam convert-tokenizer`")
        case _:
            raise FileError(f"{path}: image tokenizer {kind!r} is not known; known: {', '.join(KNOWN)}")
    return ImageTokenizerInfo(kind, codes, (side, side), resolution, area)


def _picture_size(folder: Path) -> int | None:
    """Side of a picture by ``preprocessor_config.json``; None without that file."""
    size = read_processor(folder).get("size")
    return int(size["height"]) if size else None
