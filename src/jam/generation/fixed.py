"""A few ids a slot in shapes that repeat, so that a GPU runs the whole forward as one captured graph.

The forward takes all of the first slots of the cache up to a power of two, as many ids of each, and as many keys; there
are few such shapes, and each is captured when it first comes. Where a slot has fewer ids it reads something at the
places after its end, which its next ids overwrite. On the CPU the same forward runs as it is.

Shapes: S slots that have ids, N slots of the shape, T ids of the shape, K keys of the shape, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from jam.models import JointModel, RowCache

FEWEST_KEYS = 256
Shape = tuple[int, int, int]  # N, T, K


class FixedStep:
    """The forward of a few ids in each of some slots.

    Args:
        model: the network.
        cache: of the slots; its rows must stay where the graphs found them.
        window: most ids of a slot.
    """

    def __init__(self, model: JointModel, cache: RowCache, window: int) -> None:
        self.model, self.cache = model, cache
        self.inputs = torch.zeros(2, cache.rows, window, dtype=torch.long, device=model.device)  # ids, positions
        self.graphs: dict[Shape, tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def holds(self, slots: Sequence[int], ids: Sequence[Sequence[int]], lengths: Sequence[int]) -> bool:
        """Whether every slot of the shape has room after its end for the ids that it reads.

        A step of one id needs no room: it overwrites the last id of a full slot, which no later document reuses.
        """
        rows, width, _ = self._shape(slots, ids, lengths)
        return width == 1 or max(lengths[:rows]) + width <= self.cache.max_length

    def __call__(self, slots: Sequence[int], ids: Sequence[Sequence[int]], lengths: Sequence[int]) -> Tensor:
        """Read ids into each slot, which hold `lengths` so far (all slots of the cache).

        Returns:
            The hidden state of the last id of each slot, [S, H].
        """
        shape = rows, width, _ = self._shape(slots, ids, lengths)
        chosen_NT = torch.full((rows, width), self.model.vocabulary.eos_id)
        for slot, more in zip(slots, ids, strict=True):
            chosen_NT[slot, : len(more)] = torch.tensor(more)
        places_NT = torch.tensor(lengths[:rows])[:, None] + torch.arange(width)
        places_NT.clamp_(max=self.cache.max_length - 1)
        self.inputs[:, :rows, :width].copy_(torch.stack([chosen_NT, places_NT]))
        hidden_NTH = self._replay(shape) if self.inputs.is_cuda else self._forward(shape)
        for slot, more in zip(slots, ids, strict=True):
            self.cache.set_length(slot, lengths[slot] + len(more))
        last_S = torch.tensor([len(more) - 1 for more in ids])
        return hidden_NTH[torch.tensor(slots).to(hidden_NTH.device), last_S.to(hidden_NTH.device)]

    def _shape(self, slots: Sequence[int], ids: Sequence[Sequence[int]], lengths: Sequence[int]) -> Shape:
        rows = _up_to(max(slots) + 1, 1, self.cache.rows)
        width = _up_to(max(map(len, ids)), 1, self.inputs.shape[2])
        keys = max(lengths[slot] + len(more) for slot, more in zip(slots, ids, strict=True))
        return rows, width, _up_to(keys, FEWEST_KEYS, self.cache.max_length)

    def _forward(self, shape: Shape) -> Tensor:
        """Hidden states [N, T, H]."""
        rows, width, keys = shape
        ids, positions = self.inputs[:, :rows, :width]
        mask = self.cache.fix(positions, keys)
        return self.model.hidden(ids, positions, mask, self.cache)

    def _replay(self, shape: Shape) -> Tensor:
        if shape not in self.graphs:
            self.graphs[shape] = self._capture(shape)
        graph, hidden = self.graphs[shape]
        graph.replay()
        return hidden

    def _capture(self, shape: Shape) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(2):  # compiles, allocates and chooses kernels; writes what the graph will write
                self._forward(shape)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        pool = next(iter(self.graphs.values()))[0].pool() if self.graphs else None
        # Other threads may use the device meanwhile: pictures are decoded while documents are written.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            hidden = self._forward(shape)
        return graph, hidden


def can_capture(model: JointModel) -> bool:
    """Whether the whole model is on a GPU: a graph cannot hold layers that come and go (`accelerate`).

    Nor can it hold rotary positions that are computed from the length of each sequence.
    """
    fixed = not any(
        hasattr(module, "_hf_hook") or "dynamic" in str(getattr(module, "rope_type", "")) for module in model.modules()
    )
    return model.device.type == "cuda" and fixed


def _up_to(needed: int, least: int, most: int) -> int:
    """The power of two times `least` that holds `needed`, at most `most`."""
    size = least
    while size < needed:
        size *= 2
    return min(size, most)
