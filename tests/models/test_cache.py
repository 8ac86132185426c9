"""The cache with a length per row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jam.models.cache import RowCache

HEADS, HEAD_DIM = 2, 3


def feed(
    cache: RowCache, counts: list[int], rows: list[int] | None = None, layers: int = 2
) -> list[tuple[Tensor, ...]]:
    """One forward of random keys and values; for each layer: new and seen keys and values, positions, mask."""
    positions, mask = cache.step(torch.tensor(counts), None if rows is None else torch.tensor(rows))
    result = []
    for layer in range(layers):
        heads = HEADS + layer  # layers may differ in their number of heads
        key, value = torch.randn(2, len(counts), heads, max(counts), HEAD_DIM).unbind()
        result.append((key, value, *cache.update(key, value, layer), positions, mask))
    cache.advance()
    return result


class Reference:
    """The same, with a list a row."""

    def __init__(self, rows: int) -> None:
        self.keys = [torch.zeros(HEADS, 0, HEAD_DIM) for _ in range(rows)]

    def check(self, outcome: tuple[Tensor, ...], counts: list[int], rows: list[int]) -> None:
        key, _, seen, _, positions, mask = outcome
        for index, (count, row) in enumerate(zip(counts, rows, strict=True)):
            before = self.keys[row].shape[1]
            self.keys[row] = torch.cat([self.keys[row], key[index, :, :count]], dim=1)
            after = self.keys[row].shape[1]
            assert torch.equal(seen[index, :, :after], self.keys[row])
            assert positions[index, :count].tolist() == list(range(before, after))
            for time in range(count):
                assert mask[index, 0, time].nonzero()[:, 0].tolist() == list(range(before + time + 1))
        longest = max(self.keys[row].shape[1] for row in rows)
        assert seen.shape[2] == mask.shape[3] == longest


def test_rows_of_different_lengths() -> None:
    torch.manual_seed(0)
    cache, reference = RowCache(2, rows=3, max_length=12), Reference(3)
    forwards: list[tuple[list[int], list[int] | None]] = [
        ([4, 1, 6], None),
        ([1, 1, 1], None),
        ([2, 5], [2, 0]),  # fewer rows, in another order
        ([1], [1]),
        ([0, 1, 3], None),
    ]
    for counts, rows in forwards:
        reference.check(feed(cache, counts, rows)[0], counts, rows or [0, 1, 2])
    assert cache.lengths.tolist() == [10, 4, 12]


def test_rows_of_equal_lengths_are_views() -> None:
    torch.manual_seed(0)
    cache, reference = RowCache(2, rows=2, max_length=8), Reference(2)
    for count in (3, 1, 1, 2):
        outcome = feed(cache, [count, count])[0]
        reference.check(outcome, [count, count], [0, 1])
        assert outcome[2].untyped_storage().data_ptr() == cache.layers[0].keys.untyped_storage().data_ptr()


def test_padding_beyond_the_end_is_not_written() -> None:
    """A full row beside a row that gets many tokens: the padding of the first has no room, and needs none."""
    torch.manual_seed(0)
    cache, reference = RowCache(2, rows=2, max_length=8), Reference(2)
    reference.check(feed(cache, [7, 1])[0], [7, 1], [0, 1])
    outcome = feed(cache, [1, 6])[0]
    reference.check(outcome, [1, 6], [0, 1])
    assert int(outcome[4].max()) < 8  # positions of padding stay inside a table of learned positions


def test_a_row_that_is_emptied_begins_anew() -> None:
    torch.manual_seed(0)
    cache, reference = RowCache(2, rows=3, max_length=8), Reference(3)
    reference.check(feed(cache, [3, 4, 5])[0], [3, 4, 5], [0, 1, 2])
    cache.set_length(1, 0)
    reference.keys[1] = reference.keys[1][:, :0]
    assert cache.lengths.tolist() == [3, 0, 5]
    reference.check(feed(cache, [1, 2, 1])[0], [1, 2, 1], [0, 1, 2])


def test_memory_is_allocated_by_the_first_update() -> None:
    cache = RowCache(2, rows=3, max_length=8)
    assert [layer.keys for layer in cache.layers] == [None, None]
    feed(cache, [1, 1, 1])
    assert [layer.keys.shape for layer in cache.layers] == [(3, HEADS, 8, HEAD_DIM), (3, HEADS + 1, 8, HEAD_DIM)]
    assert cache.get_seq_length() == 1 and cache.get_max_length() == 8


def test_a_row_that_is_too_long_is_named() -> None:
    cache = RowCache(1, rows=2, max_length=4)
    feed(cache, [1, 3], layers=1)
    with pytest.raises(ValueError, match=r"cache row 1 holds 3 tokens and would get 2 more, but it has room for 4"):
        cache.step(torch.tensor([2, 2]))
    assert cache.lengths.tolist() == [1, 3]
