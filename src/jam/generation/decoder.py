"""The network and its cache, as the engine sees them: slots, ids and logits.

Nothing else in `generation` runs the model or touches the cache. A slot is a row of the cache; it holds one stream of
ids, a document's or the unconditional one of a picture. Reading a prompt (`prefill`, no logits) and writing (`forward`,
one id a stream) are apart, so that the step which decides about speed has one shape.

Shapes: S streams of one forward, T new ids of a stream, H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from jam.grammar import State
from jam.models import JointModel


class Decoder:
    """A model with a preallocated cache of `slots` streams of up to `length` ids each."""

    def __init__(self, model: JointModel, slots: int, length: int) -> None:
        self.model = model
        self.slots, self.length = slots, length
        self.cache = model.new_cache(slots, length)
        self.lengths = [0] * slots  # ids that each slot has read

    @torch.inference_mode()
    def prefill(self, slots: Sequence[int], ids: Sequence[Sequence[int]]) -> None:
        """Read ids into slots, each at most once, behind what they hold."""
        self._read(slots, ids)

    @torch.inference_mode()
    def forward(self, slots: Sequence[int], ids: Sequence[int], states: Sequence[State]) -> Tensor:
        """Read one id into each slot; logits of the ids that follow, fp32 [S, V].

        Args:
            slots: each at most once.
            ids: the newest id of each stream.
            states: the state of what follows it, which says who answers (`JointModel.logits`).
        """
        hidden_SH = self._read(slots, [[token] for token in ids])
        return self.model.logits(hidden_SH, self._tensor(states)).float()

    def truncate(self, slot: int, length: int = 0) -> None:
        """Forget what a slot read behind its first `length` ids; what it keeps is not computed again."""
        assert 0 <= length <= self.lengths[slot], (slot, length, self.lengths[slot])
        self.lengths[slot] = length
        self.cache.truncate(slot, length)

    def _read(self, slots: Sequence[int], ids: Sequence[Sequence[int]]) -> Tensor:
        """The last hidden state of each stream, [S, H]."""
        # Taking rows out of the cache copies them: rows that pause come along without an id if they are the fewer.
        in_place = 2 * len(slots) > self.slots
        new = dict(zip(slots, ids, strict=True))
        batch = range(self.slots) if in_place else slots
        counts_S = self._tensor([len(new.get(slot, ())) for slot in batch])
        rows = [torch.tensor(new.get(slot, ()), dtype=torch.long) for slot in batch]
        ids_ST = pad_sequence(rows, batch_first=True, padding_value=self.model.vocabulary.eos_id)

        positions_ST, mask = self.cache.step(counts_S, None if in_place else self._tensor(slots))
        hidden_STH = self.model.hidden(ids_ST.to(self.model.device), positions_ST, mask, self.cache)
        self.cache.advance()
        for slot, more in new.items():
            self.lengths[slot] += len(more)
        batch_S = self._tensor(slots) if in_place else torch.arange(len(slots), device=self.model.device)
        return hidden_STH[batch_S, counts_S[batch_S] - 1]

    def _tensor(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.model.device)


def bytes_per_token(model: JointModel) -> int:
    """Memory that one id takes in one slot of the cache, found by reading one."""
    probe = Decoder(model, slots=1, length=1)
    probe.prefill([0], [[model.vocabulary.eos_id]])
    return probe.cache.bytes
