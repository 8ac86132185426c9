"""The cache of keys and values, with a length per row.

Rows of a batch may stand at different positions and in different modes (text, image, guided or not); a row's length is
shared by all layers: those of both towers and the cross blocks, which take distinct layer indices.
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
    """Where one forward's new tokens go; made by `RowCache.step`, read by every layer."""

    rows: Tensor | slice  # [R] cache rows that take part; a slice where they follow each other
    counts: Tensor  # [R] new tokens of each
    key_length: int  # longest row after this forward
    start: int | None  # the common old length when every row brings equally many tokens to an equal length
    source: tuple[Tensor, Tensor]  # (index within the batch, index in time) of every real new token, [N] each
    target: tuple[Tensor, Tensor]  # (cache row, position) of the same tokens, [N] each


class RowCacheLayer(CacheLayerMixin):
    """Keys and values of one layer, [rows, heads, max_length, head_dim]; allocated by the first update."""

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

    One forward is `step` (which tokens come), the forward itself, `advance` (they have come).

    Args:
        num_layers: number of attention layers, cross blocks included (`config.num_hidden_layers`).
        rows: number of sequences that fit.
        max_length: number of tokens that fit into a row.
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
        """Memory that is allocated so far: all of it from the first forward on."""
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
        """Declare one forward: active row r brings ``counts[r]`` new tokens, right-padded to the largest count T.

        Args:
            counts: long [R].
            rows: cache rows that take part, long [R], each at most once; None for all of them in order. Those that
                follow each other are read where they are; others are copied for the forward.

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
        positions = old[:, None] + time  # [R, T]; those of padding are beyond the row's end
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
        """The declared forward has run: its tokens are part of their rows now."""
        self._lengths[self._row_index] += self.current_step().counts
        self._step = None

    def fix(self, positions: Tensor, keys: int) -> Tensor:
        """Declare a forward of T tokens in each of the first R rows, in shapes that do not depend on their lengths.

        Nothing waits for the device. The caller follows the lengths (`set_length`) instead of `advance`.

        Args:
            positions: where the tokens go, long [R, T]; those of a row follow what it holds already, or each other.
            keys: K, places of a row that are read; at least those up to the tokens.

        Returns:
            The mask [R, 1, T, K], as that of `step`.
        """
        count, width = positions.shape
        rows = torch.arange(count, device=positions.device).repeat_interleave(width)
        time = torch.arange(width, device=positions.device).repeat(count)
        counts = torch.full((count,), width, device=positions.device)
        self._step = Step(slice(0, count), counts, keys, None, (rows, time), (rows, positions.reshape(-1)))
        return torch.arange(keys, device=positions.device) <= positions[:, None, :, None]

    def set_length(self, row: int, length: int) -> None:
        """Let a row hold `length` tokens: fewer, or what was written behind them."""
        self._lengths[row] = length

    def wipe(self, row: int) -> None:
        """Empty a row, and overwrite with zeros what it held."""
        self._lengths[row] = 0
        for store in self._stores():
            store[row] = 0

    def copy(self, source: int, target: int, length: int) -> None:
        """Let row `target` hold the first `length` tokens of row `source`, which are not computed again."""
        assert length <= self._lengths[source], (source, length, self._lengths[source])
        for store in self._stores():
            store[target, :, :length] = store[source, :, :length]
        self._lengths[target] = length


def of_layer(cache: Cache | None, index: int) -> Any:
    """What layer `index` calls `update` of: its own part of a `RowCache`, so that all layers are the same code."""
    return cache.layers[index] if isinstance(cache, RowCache) else cache


def _slice(rows: Tensor) -> slice | None:
    """Rows [R] as a slice, where they follow each other."""
    first, count = int(rows[0]), len(rows)
    follow = torch.equal(rows, torch.arange(first, first + count))
    return slice(first, first + count) if follow else None
