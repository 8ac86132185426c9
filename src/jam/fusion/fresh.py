"""New weights, in blocks of rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

from jam.fusion.blocks import block_rows
from jam.fusion.skeleton import Shape


def zeros(*, shape: Shape) -> Iterator[Tensor]:
    return (torch.zeros(rows, *shape[1:]) for rows in _rows_of_blocks(shape))


def normal(*, name: str, shape: Shape, std: float, seed: int) -> Iterator[Tensor]:
    """Normal random numbers that depend only on the seed, the tensor's name and its shape."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return (torch.randn(rows, *shape[1:], generator=generator).mul_(std) for rows in _rows_of_blocks(shape))


def _rows_of_blocks(shape: Shape) -> Iterator[int]:
    step = block_rows(shape[1:])
    return (min(step, shape[0] - start) for start in range(0, shape[0], step))
