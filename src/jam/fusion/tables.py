"""A parent's tensor as a table whose rows are read on request, in blocks.

Shapes: N rows, R requested rows; a tensor without dimensions is one row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from jam.checkpoints import CheckpointReader
from jam.fusion.blocks import block_rows


class Table:
    """Rows of one tensor of a checkpoint.

    `rows`, `blocks` and `stored_blocks` return a buffer: the caller may change it, and the next call overwrites it.

    Attributes:
        length: N.
        row_shape: shape of a row.
        block_rows: number of rows that can be read at once.
    """

    def __init__(self, reader: CheckpointReader, name: str) -> None:
        self._reader, self._name = reader, name
        info = reader.infos[name]
        self.length, self.row_shape = info.rows, info.row_shape
        self.block_rows = block_rows(info.row_shape)
        self._stored_dtype, self._row_bytes = info.dtype, math.prod(info.row_shape) * info.itemsize
        numbers = min(self.block_rows, info.rows) * math.prod(info.row_shape)
        self._stored = torch.empty(numbers * info.itemsize, dtype=torch.uint8)
        self.dtype = torch.float64 if info.dtype is torch.float64 else torch.float32
        self._wide = None if info.dtype is self.dtype else torch.empty(numbers, dtype=self.dtype)

    def stored_rows(self, start: int, stop: int) -> Tensor:
        """Rows in the data type of the file."""
        return self._reader.read_rows(self._name, start, stop, self._stored)

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows ``[stop - start, *row_shape]`` in fp32, or in fp64 if the file has fp64."""
        return self._wider(self.stored_rows(start, stop))

    def _wider(self, stored: Tensor) -> Tensor:
        return stored if self._wide is None else self._wide[: stored.numel()].view(stored.shape).copy_(stored)

    def spans(self) -> Iterator[tuple[int, int]]:
        """First row and end (exclusive) of every block."""
        return ((start, min(start + self.block_rows, self.length)) for start in range(0, self.length, self.block_rows))

    def blocks(self) -> Iterator[Tensor]:
        """All rows in order, in fp32 or fp64."""
        return (self.rows(*span) for span in self.spans())

    def stored_blocks(self) -> Iterator[Tensor]:
        """All rows in order, in the data type of the file."""
        return (self.stored_rows(*span) for span in self.spans())

    def whole(self) -> Tensor:
        """All rows in fp32 or fp64, in new memory."""
        return torch.cat([block.clone() for block in self.blocks()])

    def stored(self) -> Tensor:
        """The tensor as it is in the file, in new memory."""
        return self._reader.read(self._name)

    def gather(self, index_R: Tensor) -> Tensor:
        """Rows by number, ``[R, *row_shape]``, at least 1 and at most `block_rows`; may return the buffer."""
        first, last = (int(end) for end in index_R.aminmax())
        if last - first < self.block_rows:  # one read, with the rows in between
            rows, place_R = self.rows(first, last + 1), index_R - first
        else:
            sorted_N, place_R = index_R.unique(return_inverse=True)
            rows = self._wider(self._stored_runs(sorted_N))
        return rows if len(rows) == len(place_R) and (place_R.diff() == 1).all() else rows[place_R]

    def _stored_runs(self, sorted_N: Tensor) -> Tensor:
        """Rows by ascending numbers, each once, in the data type of the file; neighbours are read together."""
        breaks = ((sorted_N.diff() != 1).nonzero().flatten() + 1).tolist()
        runs = list(pairwise([0, *breaks, len(sorted_N)]))
        firsts = sorted_N[[start for start, _ in runs]].tolist()
        size = self._row_bytes
        for first, (start, stop) in zip(firsts, runs, strict=True):
            self._reader.read_rows(self._name, first, first + stop - start, self._stored[start * size : stop * size])
        return self._stored[: len(sorted_N) * size].view(self._stored_dtype).view(-1, *self.row_shape)


def stored_blocks(table: Table) -> Iterator[Tensor]:
    """The blocks of a copy."""
    return table.stored_blocks()


class ExtendedTable:
    """The rows of a table, followed by rows ``[M, *row_shape]`` in memory."""

    def __init__(self, first: Table, extra: Tensor) -> None:
        self._first, self._extra = first, extra
        self.block_rows = first.block_rows

    def stored_blocks(self) -> Iterator[Tensor]:
        """All rows in order; rows of the table in the data type of the file."""
        yield from self._first.stored_blocks()
        yield from self._extra.split(self.block_rows)

    def gather(self, index_R: Tensor) -> Tensor:
        """As `Table.gather`."""
        is_extra = index_R >= self._first.length
        if not is_extra.any():
            return self._first.gather(index_R)
        gathered = self._extra[(index_R - self._first.length).clamp(min=0)]
        if not is_extra.all():
            gathered[~is_extra] = self._first.gather(index_R[~is_extra]).to(gathered.dtype)
        return gathered
