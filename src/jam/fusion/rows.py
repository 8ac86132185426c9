"""Vocabulary tables: bring the rows of both parents into the order of the joint vocabulary.

Shapes: V joint ids, D hidden size. An index is long ``[V]``, -1 where a parent has no row. Tables go through in blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from jam.fusion.pieces import Pieces
from jam.fusion.tables import ExtendedTable, Table

NOBODY, TEXT, IMAGE, BOTH = range(4)
Mix = Callable[[Tensor, Tensor], Tensor]


def mean_row(table: Table | ExtendedTable, index_V: Tensor) -> Tensor:
    """Mean of the rows that a parent has of the joint vocabulary, ``[D]``: stands in for a row that it lacks."""
    index = index_V[index_V >= 0]
    return _mean((table.gather(part) for part in index.split(table.block_rows)), len(index))


def repeated_mean(table: Table | ExtendedTable, *, index_V: Tensor, rows: int) -> Iterator[Tensor]:
    """`mean_row` in every one of `rows` rows."""
    mean = mean_row(table, index_V)
    for start in range(0, rows, table.block_rows):
        yield mean.expand(min(table.block_rows, rows - start), -1)


def piece_means(table: Table | ExtendedTable, *, pieces: Pieces, read: Tensor) -> Iterator[Tensor]:
    """For every text id the mean of the rows of its pieces, ``[text ids, D]`` in blocks.

    An id without pieces has the mean of the rows `read`.
    """
    mean = mean_row(table, read)
    lengths = pieces.starts.diff()
    for ids in torch.arange(len(lengths)).split(table.block_rows):
        rows = pieces.rows[pieces.starts[ids[0]] : pieces.starts[ids[-1] + 1]]
        block = mean.new_zeros(len(ids), *mean.shape)
        owners = torch.arange(len(ids)).repeat_interleave(lengths[ids])
        for part, owner in zip(rows.split(table.block_rows), owners.split(table.block_rows), strict=True):
            if len(part):  # a split of nothing is one empty part
                block.index_add_(0, owner, table.gather(part).to(mean.dtype))
        block /= lengths[ids, None].clamp(min=1)
        block[lengths[ids] == 0] = mean
        yield block


def joint_blocks(table: Table, index_V: Tensor) -> Iterator[Tensor]:
    """A parent's table in joint order, ``[V, D]`` in blocks; rows that it lacks are its mean row."""
    has_V = index_V >= 0
    mean = mean_row(table, index_V) if not has_V.all() else None
    for index, has in zip(index_V.split(table.block_rows), has_V.split(table.block_rows), strict=True):
        block = table.gather(index.clamp(min=0))
        if mean is not None:
            block[~has] = mean
        yield block


def merged_table(
    text: Table, image: Table, *, text_V: Tensor, image_V: Tensor, mix: Mix | None = None, text_size: int = 0
) -> Iterator[Tensor]:
    """One table of both parents, ``[V, D]`` in blocks.

    A row that one parent alone has is copied from it. A row that both have is mixed or, without `mix`, the text
    parent's for ids below `text_size` and the image parent's for the others. A row that nobody has is the mean of all.
    """
    kind_V = TEXT * (text_V >= 0) + IMAGE * (image_V >= 0)
    if mix is None:
        kind_V[kind_V == BOTH] = IMAGE
        kind_V[:text_size][text_V[:text_size] >= 0] = TEXT

    def rows(ids: Tensor) -> Iterator[Tensor]:
        """The rows of joint ids, all of which somebody has, in runs of one kind."""
        for kind, run in _runs(kind_V, ids):
            if kind == BOTH:
                assert mix is not None
                yield mix(text.gather(text_V[run]), image.gather(image_V[run]))
            else:
                yield text.gather(text_V[run]) if kind == TEXT else image.gather(image_V[run])

    known = (kind_V != NOBODY).nonzero().flatten()
    mean = None
    if len(known) < len(kind_V):
        mean = _mean((_joined(rows(ids)) for ids in known.split(text.block_rows)), len(known))
    for ids in torch.arange(len(kind_V)).split(text.block_rows):
        for kind, run in _runs(kind_V, ids):
            if kind == NOBODY:
                assert mean is not None
                yield mean.expand(len(run), -1)
            else:
                yield from rows(run)


def _runs(kind_V: Tensor, ids: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Consecutive `ids` of one kind."""
    kinds, counts = torch.unique_consecutive(kind_V[ids], return_counts=True)
    bounds = pairwise([0, *counts.cumsum(0).tolist()])
    return ((kind, ids[start:stop]) for kind, (start, stop) in zip(kinds.tolist(), bounds, strict=True))


def _joined(blocks: Iterator[Tensor]) -> Tensor:
    """Blocks that lie in one buffer, one behind the other."""
    return torch.cat([block.clone() for block in blocks])


def _mean(blocks: Iterator[Tensor], count: int) -> Tensor:
    """Mean of `count` rows that come in blocks, one at least.

    Rows are added one by one in fp64: the order of `Tensor.sum` is that of a machine's vectors and of the blocks, and a
    proof elsewhere needs the same numbers.
    """
    total: Tensor | None = None
    for block in blocks:
        if total is None:
            total, dtype = block.new_zeros(1, *block.shape[1:], dtype=torch.float64), block.dtype
        total.index_add_(0, torch.zeros(len(block), dtype=torch.long), block.double())
    assert total is not None
    return (total[0] / count).to(dtype)
