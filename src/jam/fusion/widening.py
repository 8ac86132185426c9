"""The arithmetic of width fusion: both parents' tensors side by side, in blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from jam.fusion.config import Init
from jam.fusion.rows import joint_blocks
from jam.fusion.tables import Table


def joint_rows(
    text: Table, image: Table, *, text_V: np.ndarray, image_V: np.ndarray, divisor: float
) -> Iterator[Tensor]:
    """Both tables in joint order, side by side, divided by `divisor`: ``[V, 2 D]`` in blocks."""
    rows = _side_by_side(joint_blocks(text, text_V), joint_blocks(image, image_V))
    return rows if divisor == 1 else (block / divisor for block in rows)


def beside(text: Table, image: Table) -> Iterator[Tensor]:
    """Rows side by side."""
    return _side_by_side(text.blocks(), image.blocks())


def concatenated(text: Table, image: Table) -> Iterator[Tensor]:
    yield from text.blocks()
    yield from image.blocks()


def scaled_norm(text: Table, image: Table, *, scale: float, shift: float) -> Iterator[Tensor]:
    """Weights w of both norms, concatenated; ``shift + w`` is multiplied by `scale`."""
    return ((block + shift) * scale - shift for block in concatenated(text, image))


def widen(text: Table, image: Table, *, init: Init) -> Iterator[Tensor]:
    """``[2 out, 2 in]`` in blocks, from both parents' ``[out, in]``."""
    for left, right in ((text, image), (image, text)):
        for span in left.spans():
            own = left.rows(*span)
            added = own if init == "copy" else (own + right.rows(*span)) / 2
            yield torch.cat([own, added], dim=1)


def _side_by_side(left: Iterator[Tensor], right: Iterator[Tensor]) -> Iterator[Tensor]:
    return (torch.cat(blocks, dim=1) for blocks in zip(left, right, strict=True))
