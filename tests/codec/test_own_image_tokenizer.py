"""A new kind of image tokenizer is one class."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from jam.codec import describe_image_tokenizer, load_image_tokenizer
from jam.codec.coders import CODERS, Coder, cropped
from jam.codec.info import ImageTokenizerInfo
from jam.documents import Document, Text
from jam.documents import Image as Picture
from support import tiny


class Greys(Coder):
    """A code is the mean brightness of a quarter of the picture, in steps of 255 / (codes - 1)."""

    fit = staticmethod(cropped)

    @staticmethod
    def describe(kind: str, folder: Path, config: Mapping[str, Any]) -> ImageTokenizerInfo:
        return ImageTokenizerInfo(kind, int(config["codes"]), tiny.GRID, 4)

    @staticmethod
    def load(folder: Path, dtype: torch.dtype) -> torch.nn.Module:
        return torch.nn.Linear(1, 1, dtype=dtype)

    @staticmethod
    def encode(model: Any, pixels: torch.Tensor) -> torch.Tensor:
        means = torch.nn.functional.avg_pool2d(pixels.mean(1, keepdim=True), 2)[:, 0]
        return ((means + 1) / 2 * (tiny.CODES - 1)).round().long()

    @staticmethod
    def decode(model: Any, codes: torch.Tensor) -> torch.Tensor:
        greys = codes.float() / (tiny.CODES - 1) * 2 - 1
        return greys[:, None].repeat_interleave(2, 2).repeat_interleave(2, 3).expand(-1, 3, -1, -1)


def test_a_kind_is_one_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "greys", "codes": tiny.CODES}))
    with pytest.raises(ValueError, match=r"image tokenizer .greys. is not known; known: VQModel, "):
        describe_image_tokenizer(tmp_path)
    monkeypatch.setitem(CODERS, "greys", Greys())
    assert describe_image_tokenizer(tmp_path).codebook_size == tiny.CODES
    codec = tiny.codec(load_image_tokenizer(tmp_path))
    levels = np.array([[0, 255], [255, 0]], dtype=np.uint8).repeat(2, 0).repeat(2, 1)
    picture = Image.fromarray(levels).convert("RGB")
    encoded = codec.encode(Document(content=[Text("the red house"), Picture(pixels=picture)]))
    (drawn,) = codec.decode(encoded.ids).images
    assert drawn.codes == [0, tiny.CODES - 1, tiny.CODES - 1, 0]
    assert np.array_equal(np.array(drawn.load()), np.array(picture))
