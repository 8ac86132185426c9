"""The cache of keys and values, with a length per row.

Rows of a batch may have different positions and modes (text, image, guided or not). All layers, of both towers and of
the cross blocks, share a row's length; each has its own layer index.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


@dataclass(frozen=True)
class Step:
    """The places of a forward's new tokens, from `RowCache.step` for every layer."""

    rows: Tensor | slice  # [R] active cache rows; a slice if they are consecutive
    counts: Tensor  # [R] new tokens of each row
    key_length: int  # longest row after this forward
    start: int | None  # the old length, if all rows have equal old lengths and equal counts
    source: tuple[Tensor, Tensor]  # (index in the batch, index in time) of every new token that is no padding, [N] each
    target: tuple[Tensor, Tensor]  # (cache row, position) of these tokens, [N] each


class RowCacheLayer(CacheLayerMixin):
    """Keys and values of a layer, [rows, heads, max_length, head_dim]; allocated by the first update."""

    is_sliding = False
    is_compileable = False

    def __init__(self, cache: RowCache) -> None:
        super().__init__()
        self.cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        shape = (self.cache.rows, key_states.shape[1], self.cache.max_length)
        # Zeros, not `empty`: masked positions are multiplied by 0, and 0 * nan would spread.
        self.keys = key_states.new_zeros((*shape, key_states.shape[-1]))
        self.values = value_states.new_zeros((*shape, value_states.shape[-1]))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write new keys and values [R, heads, T, head_dim]; return the active rows' [R, heads, K, head_dim]."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        step = self.cache.current_step()
        return self._write(self.keys, key_states, step), self._write(self.values, value_states, step)

    @staticmethod
    def _write(store: Tensor, new: Tensor, step: Step) -> Tensor:
        if step.start is not None and isinstance(step.rows, slice):
            store[step.rows, :, step.start : step.key_length] = new
        else:
            row, position = step.target
            batch, time = step.source
            store[row, :, position] = new[batch, :, time]  # [N, heads, head_dim]
        if isinstance(step.rows, slice):
            return store[step.rows, :, : step.key_length]
        return store[:, :, : step.key_length].index_select(0, step.rows)

    def get_seq_length(self) -> int:
        return int(self.cache.lengths.max())

    def get_max_length(self) -> int:
        return self.cache.max_length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cache.current_step().key_length, 0


class RowCache(Cache):
    """A preallocated cache whose rows have lengths of their own.

    A caller calls `step` (which declares new tokens), runs the forward, and calls `advance` (which counts the tokens).

    Args:
        num_layers: number of attention layers, with cross blocks (`config.num_hidden_layers`).
        rows: largest number of sequences.
        max_length: largest number of tokens in a row.
    """

    def __init__(self, num_layers: int, rows: int, max_length: int) -> None:
        super().__init__(layers=[RowCacheLayer(self) for _ in range(num_layers)])
        self.rows = rows
        self.max_length = max_length
        self._lengths = torch.zeros(rows, dtype=torch.long)  # on the CPU: lengths decide about shapes
        self._device = torch.device("cpu")
        self._step: Step | None = None

    @property
    def lengths(self) -> Tensor:
        """Number of tokens in each row, long [rows], on the device of the last `step`."""
        return self._lengths.to(self._device)

    @property
    def bytes(self) -> int:
        """Allocated memory in bytes: 0 before the first forward."""
        return sum(store.nbytes for store in self._stores())

    def _stores(self) -> Iterator[Tensor]:
        for layer in self.layers:
            assert isinstance(layer, RowCacheLayer)
            if layer.is_initialized:
                assert layer.keys is not None and layer.values is not None
                yield from (layer.keys, layer.values)

    def current_step(self) -> Step:
        assert self._step is not None, "RowCache.step declares a forward before it runs"
        return self._step

    def step(self, counts: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Declare a forward: active row r gets ``counts[r]`` new tokens, right-padded to the largest count T.

        Args:
            counts: long [R].
            rows: active cache rows, long [R], each at most once; None: all rows in order. Consecutive rows are read in
                place; other rows are copied for the forward.

        Returns:
            position_ids [R, T] and the attention mask [R, 1, T, K], bool, True where query t of row r may see key j:
            ``j <= length[r] + t``. K is the length of the longest active row after this forward.

        Raises:
            ValueError: a row would exceed `max_length`.
        """
        self._device = device = counts.device
        counts = counts.cpu()
        row_index = torch.arange(self.rows) if rows is None else rows.cpu()
        assert counts.shape == row_index.shape and len(counts), (counts.shape, row_index.shape)
        old = self._lengths[row_index]
        new = old + counts
        if (new > self.max_length).any():
            row = int((new - self.max_length).argmax())
            raise ValueError(
                f"cache row {int(row_index[row])} holds {int(old[row])} tokens and would get {int(counts[row])} more, "
                f"but it has room for {self.max_length}; make the cache longer or the sequence shorter"
            )
        time = torch.arange(int(counts.max()))
        positions = old[:, None] + time  # [R, T]; positions of padding are beyond the row's end
        source = (time < counts[:, None]).nonzero(as_tuple=True)
        target = (row_index[source[0]], positions[source])
        equal = bool((old == old[0]).all() and (counts == counts[0]).all())
        key_length = int(new.max())
        self._step = Step(
            rows=_slice(row_index) or row_index.to(device),
            counts=counts,
            key_length=key_length,
            start=int(old[0]) if equal else None,
            source=(source[0].to(device), source[1].to(device)),
            target=(target[0].to(device), target[1].to(device)),
        )
        self._row_index = row_index
        mask = torch.arange(key_length) <= positions[:, None, :, None]
        # Padding must still have a row in a table of learned positions.
        return positions.clamp(max=self.max_length - 1).to(device), mask.to(device)

    def advance(self) -> None:
        """Add the new tokens to the rows' lengths, after the declared forward."""
        self._lengths[self._row_index] += self.current_step().counts
        self._step = None

    def fix(self, positions: Tensor, keys: int) -> Tensor:
        """Declare a forward of T tokens in each of the first R rows, in shapes that do not depend on lengths.

        The call does not wait for the device. The caller sets lengths by `set_length` instead of `advance`.

        Args:
            positions: places of the tokens, long [R, T]; a row's tokens follow the row or each other.
            keys: K, number of places of a row to read, at least up to the tokens.

        Returns:
            The mask [R, 1, T, K], as from `step`.
        """
        count, width = positions.shape
        rows = torch.arange(count, device=positions.device).repeat_interleave(width)
        time = torch.arange(width, device=positions.device).repeat(count)
        counts = torch.full((count,), width, device=positions.device)
        self._step = Step(slice(0, count), counts, keys, None, (rows, time), (rows, positions.reshape(-1)))
        return torch.arange(keys, device=positions.device) <= positions[:, None, :, None]

    def set_length(self, row: int, length: int) -> None:
        """Set a row's length: fewer tokens, or more tokens that a forward after `fix` wrote."""
        self._lengths[row] = length

    def wipe(self, row: int) -> None:
        """Empty a row and fill it with zeros."""
        self._lengths[row] = 0
        for store in self._stores():
            store[row] = 0

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of row `source` into row `target`."""
        assert length <= self._lengths[source], (source, length, self._lengths[source])
        for store in self._stores():
            store[target, :, :length] = store[source, :, :length]
        self._lengths[target] = length


def of_layer(cache: Cache | None, index: int) -> Any:
    """The cache for layer `index`: its own layer of a `RowCache`, so that compiled layers share their code."""
    return cache.layers[index] if isinstance(cache, RowCache) else cache


def _slice(rows: Tensor) -> slice | None:
    """Consecutive rows [R] as a slice; None for other rows."""
    first, count = int(rows[0]), len(rows)
    is_consecutive = torch.equal(rows, torch.arange(first, first + count))
    return slice(first, first + count) if is_consecutive else None
