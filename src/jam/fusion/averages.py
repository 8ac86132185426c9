"""Weighted averages of both parents' tensors."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from jam.fusion.tables import Table


def blockwise(text: Table, image: Table, *, weight: float) -> Iterator[Tensor]:
    return (mixed(*blocks, weight=weight) for blocks in zip(text.blocks(), image.blocks(), strict=True))


def mixed(text: Tensor, image: Tensor, *, weight: float) -> Tensor:
    """``weight text + (1 - weight) image``; overwrites `text`.

    The second product is not rounded before it is added, and the result is divided by the sum of the shares where it is
    not 1 in this precision. mergekit's linear merge (0.1.5) does so too: results are equal to the last bit.
    """
    shares = torch.tensor([weight, 1 - weight], dtype=text.dtype)
    text.mul_(weight).add_(image, alpha=1 - weight)
    return text if shares.sum() == 1 else text.div_(shares.sum())
