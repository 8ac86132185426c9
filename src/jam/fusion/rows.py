"""Vocabulary tables: the rows of both parents in the order of the joint vocabulary.

Shapes: V joint ids, D hidden size. An index is an array ``[V]``, -1 where a parent has no row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from jam.fusion.averages import mixed
from jam.fusion.pieces import Pieces
from jam.fusion.tables import ExtendedTable, Table

NOBODY, TEXT, IMAGE, BOTH = range(4)


def mean_row(table: Table | ExtendedTable, index_V: np.ndarray) -> Tensor:
    """Mean of a parent's rows of the joint vocabulary, ``[D]``: replaces rows that the parent lacks."""
    total = RowSum()
    total.add_all(map(table.gather, torch.from_numpy(index_V[index_V >= 0]).split(table.block_rows)))
    return total.mean()


def repeated_mean(table: Table | ExtendedTable, *, index_V: np.ndarray, rows: int) -> Iterator[Tensor]:
    """`mean_row`, repeated in `rows` rows, in blocks."""
    mean = mean_row(table, index_V)
    for start in range(0, rows, table.block_rows):
        yield mean.expand(min(table.block_rows, rows - start), -1)


def piece_means(table: Table | ExtendedTable, *, pieces: Pieces, read: np.ndarray) -> Iterator[Tensor]:
    """Mean of the rows of the pieces of every text id, ``[text ids, D]`` in blocks; without pieces, mean of `read`."""
    mean = mean_row(table, read)
    starts, all_rows = torch.from_numpy(pieces.starts), torch.from_numpy(pieces.rows)
    lengths = starts.diff()
    for ids in torch.arange(len(lengths)).split(table.block_rows):
        rows = all_rows[starts[ids[0]] : starts[ids[-1] + 1]]
        block = mean.new_zeros(len(ids), *mean.shape)
        owners = torch.arange(len(ids)).repeat_interleave(lengths[ids])
        for part, owner in zip(rows.split(table.block_rows), owners.split(table.block_rows), strict=True):
            if len(part):  # a split of nothing is one empty part
                block.index_add_(0, owner, table.gather(part).to(mean.dtype))
        block /= lengths[ids, None].clamp(min=1)
        block[lengths[ids] == 0] = mean
        yield block


def joint_blocks(table: Table, index_V: np.ndarray) -> Iterator[Tensor]:
    """A parent's table in joint order, ``[V, D]`` in blocks; rows that the parent lacks are its mean row."""
    row_V = torch.from_numpy(index_V)
    has_V = row_V >= 0
    mean = mean_row(table, index_V) if not has_V.all() else None
    for index, has in zip(row_V.split(table.block_rows), has_V.split(table.block_rows), strict=True):
        block = table.gather(index.clamp(min=0))
        if mean is not None:
            block[~has] = mean
        yield block


def merged_table(
    text: Table,
    image: Table,
    *,
    text_V: np.ndarray,
    image_V: np.ndarray,
    weight: float | None = None,
    text_size: int = 0,
) -> Iterator[Tensor]:
    """One table of both parents, ``[V, D]`` in blocks.

    A row of one parent is a copy. A row of both parents is an average with the text parent's share `weight` or, without
    `weight`, the text parent's row for ids below `text_size` and the image parent's row for other ids. A row of neither
    parent is the mean of all rows.
    """
    text_row_V, image_row_V = torch.from_numpy(text_V), torch.from_numpy(image_V)
    kind_V = TEXT * (text_row_V >= 0) + IMAGE * (image_row_V >= 0)
    if weight is None:
        kind_V[kind_V == BOTH] = IMAGE
        kind_V[:text_size][text_row_V[:text_size] >= 0] = TEXT

    def rows(ids: Tensor) -> Iterator[Tensor]:
        """The rows of joint ids, each of which a parent has, in runs of one kind."""
        for kind, run in _runs(kind_V, ids):
            if kind == BOTH:
                assert weight is not None
                yield mixed(text.gather(text_row_V[run]), image.gather(image_row_V[run]), weight=weight)
            else:
                yield text.gather(text_row_V[run]) if kind == TEXT else image.gather(image_row_V[run])

    nobodys = (kind_V == NOBODY).nonzero().flatten()
    total = RowSum()
    # If the rows of neither parent come last, as rows of control tokens do, other rows are summed while they pass.
    adds_up = len(nobodys) > 0 and int(nobodys[0]) + len(nobodys) == len(kind_V)
    if len(nobodys) and not adds_up:
        for ids in (kind_V != NOBODY).nonzero().flatten().split(text.block_rows):
            total.add_all(rows(ids))
    for ids in torch.arange(len(kind_V)).split(text.block_rows):
        for kind, run in _runs(kind_V, ids):
            if kind == NOBODY:
                yield total.mean().expand(len(run), -1)
                continue
            for block in rows(run):
                if adds_up:
                    total.add(block)
                yield block


def _runs(kind_V: Tensor, ids: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Consecutive `ids` of one kind."""
    kinds, counts = torch.unique_consecutive(kind_V[ids], return_counts=True)
    bounds = pairwise([0, *counts.cumsum(0).tolist()])
    return ((kind, ids[start:stop]) for kind, (start, stop) in zip(kinds.tolist(), bounds, strict=True))


class RowSum:
    """A sum of rows, added one by one in fp64.

    `Tensor.sum` adds in an order that depends on machine and blocks; `jam verify` needs equal numbers elsewhere.
    """

    def __init__(self) -> None:
        self._total: Tensor | None = None
        self._count = 0

    def add(self, block: Tensor) -> None:
        """Add rows ``[R, ...]``."""
        if self._total is None:
            self._total, self._dtype = block.new_zeros(1, *block.shape[1:], dtype=torch.float64), block.dtype
        self._total.index_add_(0, torch.zeros(len(block), dtype=torch.long), block.double())
        self._count += len(block)

    def add_all(self, blocks: Iterable[Tensor]) -> None:
        for block in blocks:
            self.add(block)

    def mean(self) -> Tensor:
        """The mean, in the data type of the first rows; needs a row."""
        assert self._total is not None
        return (self._total[0] / self._count).to(self._dtype)
