"""Longer contexts by interpolated positions (docs/unequal-parents.md)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jam.models.towers import Made
from jam.models.towers.base import FULL

if TYPE_CHECKING:
    from torch import Tensor

    from jam.fusion.tables import Table

STRETCHED = {"default": "linear", "linear": "linear", "llama3": "llama3", "yarn": "yarn"}
"""Types of rotary positions that can be stretched, and their types after stretching."""


@dataclass(frozen=True)
class StretchedPositions(Made):
    """A table of learned positions, interpolated so that the first and the last position keep their rows.

    Args:
        offset: rows before the rows of positions; they are copied.
        old, new: number of positions.
    """

    offset: int = 0
    old: int = 0
    new: int = 0

    @classmethod
    def of(cls, name: str, shape: tuple[int, ...], old: int, new: int) -> StretchedPositions:
        """The stretched table `name`, with the stretched `shape`."""
        offset = shape[0] - new
        sources = {name: (offset + old, *shape[1:])}
        return cls(sources, f"{old} positions interpolated to {new}", None, offset, old, new)

    def compute(self, first: Tensor, *sources: Tensor) -> Tensor:
        import torch

        wide = first.to(torch.promote_types(first.dtype, torch.float32))
        return self._rows(0, self.offset + self.new, lambda start, stop: wide[start:stop])

    def blocks(self, table: Table) -> Iterator[Tensor]:
        """The stretched table in blocks."""
        step = max(1, table.block_rows - 2)  # a block reads at most two rows more than it has
        for start in range(0, self.offset + self.new, step):
            yield self._rows(start, min(start + step, self.offset + self.new), table.rows)

    def _rows(self, start: int, stop: int, read: Callable[[int, int], Tensor]) -> Tensor:
        import torch

        place = torch.arange(start, stop, dtype=torch.float64) - self.offset
        place = self.offset + torch.where(place < 0, place, place * (self.old - 1) / (self.new - 1))
        below = place.floor().long()
        above = (below + 1).clamp(max=self.offset + self.old - 1)
        first = int(below[0])
        rows = read(first, int(above[-1]) + 1)
        low, high = rows[below - first], rows[above - first]
        return low + (high - low) * (place - below).to(rows.dtype)[:, None]


def stretched_settings(config: Any, context: int, owner: str) -> Any:
    """A decoder's settings for `context` positions, more than it has; rotary positions are interpolated.

    Raises:
        ValueError: rotary positions of this type cannot be interpolated.
    """
    ratio = context / config.max_position_embeddings
    config = copy.deepcopy(config)
    config.max_position_embeddings = context
    rope = getattr(config, "rope_parameters", None)
    if not rope:
        return config
    if any(isinstance(value, dict) for value in rope.values()):  # by type of layer: windows keep their lengths
        full = {FULL: _stretched_rope(rope[FULL], ratio, owner)} if FULL in getattr(config, "layer_types", ()) else {}
        config.rope_parameters = rope | full
    else:
        config.rope_parameters = _stretched_rope(rope, ratio, owner)
    return config


def _stretched_rope(rope: dict[str, Any], ratio: float, owner: str) -> dict[str, Any]:
    kind = rope.get("rope_type", "default")
    if kind not in STRETCHED:
        raise ValueError(
            f"rotary positions of {owner} are of the type {kind!r}, which cannot be interpolated; "
            f"{', '.join(STRETCHED)} can; leave --context out"
        )
    stretched = rope | {"rope_type": STRETCHED[kind]}
    if kind == "default" or rope.get("factor") is not None:  # yarn without a factor follows max_position_embeddings
        stretched["factor"] = rope.get("factor", 1.0) * ratio
    return stretched
