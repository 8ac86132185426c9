"""One id a slot in shapes that repeat, so that a GPU runs the whole forward as one captured graph.

The forward takes all of the first slots of the cache up to a power of two, and as many keys; there are few such shapes,
and each is captured when it first comes. Slots without an id read something at the place behind their end, which their
next id overwrites. On the CPU the same forward runs as it is.

Shapes: S slots that have an id, N slots of the shape, K keys of the shape, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from jam.models import JointModel, RowCache

FEWEST_KEYS = 256


class FixedStep:
    """The forward of one id in each of some slots.

    Args:
        model: the network.
        cache: of the slots; its rows must lie where the graphs found them.
    """

    def __init__(self, model: JointModel, cache: RowCache) -> None:
        self.model, self.cache = model, cache
        self.inputs = torch.zeros(2, cache.rows, dtype=torch.long, device=model.device)  # ids, positions
        self.graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def __call__(self, slots: Sequence[int], ids: Sequence[int], lengths: Sequence[int]) -> Tensor:
        """Read an id into each slot, which hold `lengths` so far (all slots of the cache); hidden states [S, H]."""
        rows = _up_to(max(slots) + 1, 1, self.cache.rows)
        keys = _up_to(max(lengths[slot] for slot in slots) + 1, FEWEST_KEYS, self.cache.max_length)
        new = dict(zip(slots, ids, strict=True))
        chosen = [new.get(slot, self.model.vocabulary.eos_id) for slot in range(rows)]
        places = [min(length, self.cache.max_length - 1) for length in lengths[:rows]]
        self.inputs[:, :rows].copy_(torch.tensor([chosen, places]))
        hidden = self._replay(rows, keys) if self.inputs.is_cuda else self._forward(rows, keys)
        for slot in slots:
            self.cache.set_length(slot, lengths[slot] + 1)
        return hidden[torch.tensor(slots, device=hidden.device)]

    def _forward(self, rows: int, keys: int) -> Tensor:
        """Hidden states [N, H]."""
        ids, positions = self.inputs[:, :rows, None]
        mask = self.cache.fix(positions[:, 0], keys)
        return self.model.hidden(ids, positions, mask, self.cache)[:, 0]

    def _replay(self, rows: int, keys: int) -> Tensor:
        if (rows, keys) not in self.graphs:
            self.graphs[rows, keys] = self._capture(rows, keys)
        graph, hidden = self.graphs[rows, keys]
        graph.replay()
        return hidden

    def _capture(self, rows: int, keys: int) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(2):  # compiles, allocates and chooses kernels; writes what the graph will write
                self._forward(rows, keys)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        pool = next(iter(self.graphs.values()))[0].pool() if self.graphs else None
        with torch.cuda.graph(graph, pool=pool):
            hidden = self._forward(rows, keys)
        return graph, hidden


def can_capture(model: JointModel) -> bool:
    """Whether the model lies on a GPU as a whole: layers that come and go (`accelerate`) are none of a graph's.

    Nor are rotary positions that are computed from the length of each sequence.
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
