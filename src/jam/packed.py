"""Places of documents in packed rows, with which attention keeps documents apart.

Shapes: B batch, T time, R runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import chain

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Packed:
    """The runs of each row: its documents in order, and the padding after the documents.

    Args:
        rows: lengths of the documents of every row.
        context: T.
        ends: cumulative lengths of all runs of all rows, padding included, int32 [R + 1]; on the model's device.
        window: number of positions that a position sees, itself included; None: all earlier ones of its document.
        is_causal: True for plain causal attention: every row is one document without window. Stored, since compiled
            layers that read `rows` would be compiled again for each number of documents.
    """

    rows: tuple[tuple[int, ...], ...]
    context: int
    ends: Tensor = field(repr=False)
    window: int | None = None
    is_causal: bool = False

    @classmethod
    def of(cls, rows: tuple[tuple[int, ...], ...], context: int) -> Packed:
        runs = chain.from_iterable(_runs(row, context) for row in rows)
        ends = torch.tensor([0, *runs]).cumsum(0).to(torch.int32)
        return cls(rows, context, ends, is_causal=all(row == (context,) for row in rows))

    def to(self, device: torch.device | str) -> Packed:
        return replace(self, ends=self.ends.to(device, non_blocking=True))

    def windowed(self, window: int) -> Packed:
        return replace(self, window=window, is_causal=self.is_causal and window >= self.context)

    @property
    def lengths(self) -> list[int]:
        """Lengths of all runs in order; padding is negative."""
        return [
            sign * length
            for row in self.rows
            for sign, length in [*((1, length) for length in row), (-1, self.context - sum(row))]
            if length
        ]

    def dense(self) -> Tensor:
        """Bool [B, 1, T, T], True for visible positions: earlier in the same run, and within the window."""
        runs = [_runs(row, self.context) for row in self.rows]
        numbers = torch.stack([torch.arange(len(row)).repeat_interleave(torch.tensor(row)) for row in runs])
        place = torch.arange(self.context)
        distance = place[:, None] - place
        seen = (distance >= 0) & (distance < (self.window or self.context))
        return ((numbers[:, :, None] == numbers[:, None]) & seen)[:, None].to(self.ends.device)


Mask = Tensor | Packed | None  # bool [B, 1, T, K], True where visible; None: plain causal


def _runs(row: tuple[int, ...], context: int) -> tuple[int, ...]:
    """Lengths of the runs of a row: its documents, and its padding as a separate run."""
    padding = context - sum(row)
    return (*row, padding) if padding else row
