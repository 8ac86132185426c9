"""The network and its cache, as the engine sees them: slots, ids and logits.

Nothing else in `generation` runs the model or touches the cache. A slot is a row of the cache; it holds the ids
of a document, or of a picture without its document (guidance). Reading a prompt (`prefill`, no logits) and
writing (`forward`, few ids a slot) are apart, so that the step which decides about speed has few shapes.

Shapes: S slots of one forward, T most new ids of a slot, H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from jam.generation.fixed import FixedStep, can_capture
from jam.grammar import State
from jam.models import JointModel, is_compiled
from jam.models.cpu_kernel import kernel_layers, using_kernel

WINDOW = 8  # most ids that a slot reads with the forward that writes
CHEAP = {"cpu": 4, "cuda": 128}  # ids of all slots together whose forward takes little longer than a forward of one


class ModelRunner:
    """A model with a preallocated cache of `slots` slots of up to `length` ids each.

    Args:
        model: the network; a large one on the CPU uses the kernel while the runner runs it (`models.cpu_kernel`).
        slots: how many documents and unconditional pictures the cache holds.
        length: ids of a slot.
        fixed: whether `forward` has shapes that repeat (`FixedStep`); None: where they can be captured.

    Attributes:
        ids: what each slot has read.
    """

    def __init__(self, model: JointModel, slots: int, length: int, fixed: bool | None = None) -> None:
        self.model = model
        self.slots, self.length = slots, length
        self.cache = model.new_cache(slots, length)
        self.ids: list[list[int]] = [[] for _ in range(slots)]
        self.kernel_layers = kernel_layers(model)
        self.compiled = is_compiled(model)
        fixed = can_capture(model) if fixed is None else fixed
        self.step = FixedStep(model, self.cache, WINDOW) if fixed else None

    @property
    def lengths(self) -> list[int]:
        """How many ids each slot has read."""
        return [len(ids) for ids in self.ids]

    @torch.inference_mode()
    def prefill(self, slots: Sequence[int], ids: Sequence[Sequence[int]]) -> None:
        """Read ids into slots, each at most once, after what they hold."""
        # Prompts are never of one length: compiled layers would be compiled again and again.
        stance = torch.compiler.set_stance("force_eager") if self.compiled else nullcontext()
        with stance, using_kernel(self.kernel_layers):
            self._read(slots, ids)

    def width(self, slots: int) -> int:
        """How many ids each of so many slots should read in one `forward` at most: a longer one costs in proportion."""
        return max(1, min(WINDOW, CHEAP.get(self.model.device.type, WINDOW) // slots))

    @torch.inference_mode()
    def forward(self, slots: Sequence[int], ids: Sequence[Sequence[int]], states: Sequence[State]) -> Tensor:
        """Read ids into each slot; logits of what follows the last of them, fp32 [states, V].

        Args:
            slots: each at most once.
            ids: the newest ids of each slot, 1 to `WINDOW` of them.
            states: the state of what follows, which says who answers (`JointModel.logits`), in the first of the slots;
                the others only read.
        """
        with using_kernel(self.kernel_layers):
            if self.step is not None and self.step.holds(slots, ids, self.lengths):
                hidden_SH = self.step(slots, ids, self.lengths)
                for slot, more in zip(slots, ids, strict=True):
                    self.ids[slot] += more
            else:
                hidden_SH = self._read(slots, ids)
            states_S = torch.tensor(states)  # on the CPU: nobody waits to know them
            return self.model.logits(hidden_SH[: len(states)], states_S).float()

    def truncate(self, slot: int, length: int = 0) -> None:
        """Forget what a slot read after its first `length` ids; the rest is not computed again."""
        assert 0 <= length <= len(self.ids[slot]), (slot, length, len(self.ids[slot]))
        del self.ids[slot][length:]
        self.cache.set_length(slot, length)

    @torch.inference_mode()
    def wipe(self, slot: int) -> None:
        """Forget all of a slot that may hold nan: masked places are multiplied by 0, and 0 * nan would spread."""
        self.truncate(slot)
        self.cache.wipe(slot)

    @torch.inference_mode()
    def copy(self, source: int, target: int, length: int) -> None:
        """Let a slot begin with what another one has read first: a shared prompt is computed once."""
        self.cache.copy(source, target, length)
        self.ids[target] = self.ids[source][:length]

    def _read(self, slots: Sequence[int], ids: Sequence[Sequence[int]]) -> Tensor:
        """The last hidden state of each slot, [S, H]."""
        # Taking rows out of the cache copies them: rows that pause come along without an id if they are the fewer, and
        # if that is few places each, not the length of a prompt.
        between = range(min(slots), max(slots) + 1)
        follows = max(map(len, ids)) <= WINDOW and 2 * len(slots) > len(between)
        batch = between if follows else slots
        new = dict(zip(slots, ids, strict=True))
        counts_S = self._tensor([len(new.get(slot, ())) for slot in batch])
        rows = [torch.tensor(new.get(slot, ()), dtype=torch.long) for slot in batch]
        ids_ST = pad_sequence(rows, batch_first=True, padding_value=self.model.vocabulary.eos_id)

        positions_ST, mask = self.cache.step(counts_S, self._tensor(batch))
        hidden_STH = self.model.hidden(ids_ST.to(self.model.device), positions_ST, mask, self.cache)
        self.cache.advance()
        for slot, more in new.items():
            self.ids[slot] += more
        batch_S = self._tensor([batch.index(slot) for slot in slots])
        return hidden_STH[batch_S, counts_S[batch_S] - 1]

    def _tensor(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.model.device)


_bytes_per_token: WeakKeyDictionary[JointModel, dict[torch.dtype, int]] = WeakKeyDictionary()


def bytes_per_token(model: JointModel) -> int:
    """Memory that one id takes in one slot of the cache, found by reading one; for a model in one type only once."""
    known, dtype = _bytes_per_token.setdefault(model, {}), next(model.parameters()).dtype
    if dtype not in known:
        probe = ModelRunner(model, slots=1, length=1)
        probe.prefill([0], [[model.vocabulary.eos_id]])
        known[dtype] = probe.cache.bytes
    return known[dtype]
