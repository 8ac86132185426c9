"""Image tokenizers behind one interface: ``encode(images) -> codes [N, h, w]``, ``decode(codes) -> images``."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from jam.checkpoints.progress import without_progress_bars
from jam.codec.coders import CODERS
from jam.codec.description import describe_image_tokenizer
from jam.codec.files import holds_image_tokenizer
from jam.codec.info import ImageTokenizerInfo
from jam.codec.shapes import fitted
from jam.documents import to_rgb
from jam.files import reading

IMAGE_TOKENIZER_FOLDER = "image_tokenizer"


class ImageTokenizer:
    """A VQ autoencoder (`CODERS` has the classes), with pictures going in and out as `PIL` images.

    A picture of any size is made a square of `resolution` pixels a side, or keeps its shape (`to_shaped_pixels`),
    scaled to -1 .. 1.
    """

    def __init__(self, model: torch.nn.Module, info: ImageTokenizerInfo) -> None:
        self.model = model.eval().requires_grad_(False)
        self.info = info
        self._coder = CODERS[info.kind]

    @property
    def _placement(self) -> dict[str, Any]:
        parameter = next(self.model.parameters())
        return {"device": parameter.device, "dtype": parameter.dtype}

    def hash(self) -> str:
        """SHA-256 of the weights, of the grid and of the picture's size: what decides the codes of a picture."""
        digest = hashlib.sha256(repr(self.info).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def to_pixels(self, picture: Image.Image) -> torch.Tensor:
        """RGB ``[3, resolution, resolution]`` in -1 .. 1, resized and cropped or padded as this kind wants it."""
        return _scaled(self._coder.fit(to_rgb(picture), self.info.resolution))

    def to_shaped_pixels(self, picture: Image.Image, unit: int = 1) -> torch.Tensor:
        """RGB ``[3, height, width]`` in -1 .. 1, in the picture's own shape: sides of a multiple of `unit` codes.

        Raises:
            ValueError: the tokenizer has one shape, or the picture is too long and thin.
        """
        if self.info.area is None:
            raise ValueError(f"an image tokenizer of the kind {self.info.kind} has one shape of pictures")
        size = (picture.height, picture.width)
        height, width = fitted(size, unit * self.info.pixels_per_code, self.info.area)
        return _scaled(to_rgb(picture).resize((width, height), Image.Resampling.BICUBIC))

    def encode(self, pictures: Sequence[Image.Image], batch_size: int = 32) -> torch.Tensor:
        """Pictures to codes, int64 ``[N, h, w]`` on the CPU."""
        codes = [torch.zeros(0, *self.info.grid, dtype=torch.long)]
        for start in range(0, len(pictures), batch_size):
            pixels = [self.to_pixels(picture) for picture in pictures[start : start + batch_size]]
            codes.append(self.encode_pixels(torch.stack(pixels)))
        return torch.cat(codes)

    @torch.inference_mode()
    def encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """What `to_pixels` gives, ``[N, 3, height, width]``, to codes, int64 ``[N, h, w]`` on the CPU."""
        factor = self.info.pixels_per_code
        height, width = pixels.shape[-2] // factor, pixels.shape[-1] // factor
        codes = self._coder.encode(self.model, pixels.to(**self._placement))
        return codes.reshape(-1, height, width).cpu()

    @torch.inference_mode()
    def decode(self, codes: torch.Tensor, batch_size: int = 32) -> list[Image.Image]:
        """Codes ``[N, h, w]`` to pictures."""
        pictures = []
        for part in codes.split(batch_size):
            pixels = self._coder.decode(self.model, part.to(self._placement["device"]))
            array = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
            pictures += [Image.fromarray(picture) for picture in array]
        return pictures

    def preview(self, codes: Sequence[int], shape: tuple[int, int] | None = None) -> Image.Image:
        """The whole rows of a picture of which the first codes are there, row by row; at least one row.

        `shape`: of the whole picture, in codes (None: the usual one). What is missing is decoded as more of the last
        row, which an image tokenizer's blur may let through at the edge.
        """
        height, width = shape or self.info.grid
        rows = len(codes) // width
        if not 0 < rows <= height:
            raise ValueError(f"{len(codes)} codes are no rows of a picture of {height} x {width}")
        grid = torch.tensor(list(codes[: rows * width])).reshape(rows, width)
        grid = torch.cat([grid, grid[-1:].expand(height - rows, width)])
        picture = self.decode(grid[None])[0]
        return picture.crop((0, 0, picture.width, picture.height * rows // height))


def _scaled(picture: Image.Image) -> torch.Tensor:
    """Pixels of an RGB picture ``[3, height, width]`` in -1 .. 1."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1


def load_image_tokenizer(
    folder: str | Path, device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> ImageTokenizer:
    """The image tokenizer of a folder of its own, ready to encode and decode (evaluation mode, frozen)."""
    if holds_image_tokenizer(folder):
        raise ValueError(f"{folder} is a whole model; make its image tokenizer with `jam convert-tokenizer`")
    info = describe_image_tokenizer(folder)
    # Autoencoders of this kind lose detail in half precision, and are small: fp32 unless asked otherwise.
    with reading(f"the image tokenizer {folder}"), without_progress_bars():
        model = CODERS[info.kind].load(Path(folder), dtype or torch.float32)
    return ImageTokenizer(model.to(device or "cpu"), info)
