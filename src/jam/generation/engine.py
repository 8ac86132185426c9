"""The decode engine: text until `<break>`, one whole picture, text again, until `</s>`, for many documents at once.

Documents join and leave while others are written. A step is one forward for all rows that are ready, whether they are
in text or in a picture; a guided row brings a second, unconditional slot while it is in a picture (guidance.py). Both
kinds of slot live in one cache with a length per slot. Ids about which the grammar gives no choice are read together
with the one before them. New prompts are read in chunks between the steps.

Shapes: R rows, G guided ones among them, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jam.generation.active_request import ActiveRequest
from jam.generation.events import Event
from jam.generation.guidance import guide
from jam.generation.limits import Limits
from jam.generation.model_runner import ModelRunner, bytes_per_token
from jam.generation.prefixes import common_length, share
from jam.generation.progress import Progress
from jam.generation.request import Request, Session, read_prompt, requests_of
from jam.generation.result import Generation
from jam.generation.sampling import Choices, penalise, sample
from jam.generation.scheduler import Scheduler
from jam.generation.settings import GenerationSettings
from jam.generation.slots import Slot
from jam.generation.threads import in_one_thread, new_lock
from jam.grammar import State
from jam.models import JointModel

if TYPE_CHECKING:
    from jam.codec import Codec

SLOTS = 32
CHUNK = 512  # ids of prompts that are read between two steps, of all together

OnStep = Callable[[Sequence[ActiveRequest]], None]


class Engine:
    """Writes documents with one model, which should be in eval mode.

    One thread at a time may use it: another one gets a RuntimeError. `EngineLoop` gives an engine a thread of its own,
    and takes requests from all others. Engines of one model may be used in a thread each.

    Args:
        model: the network.
        codec: of the model, to read text: without it there are no text events, stop strings or sentence ends.
        slots: of the cache: one a document, two with guidance. Others wait.
        length: ids of a slot (None: the model's context).
        memory: bytes that the cache may take; fewer slots then. None: no limit.

    Raises:
        ValueError: the memory does not hold a single slot.
    """

    def __init__(
        self,
        model: JointModel,
        codec: Codec | None = None,
        slots: int = SLOTS,
        length: int | None = None,
        memory: int | None = None,
    ) -> None:
        self.model, self.codec = model, codec
        self.vocabulary = model.vocabulary
        self.device = model.device
        length = model.context_length if length is None else length
        if type(length) is not int or not 1 <= length <= model.context_length:
            raise ValueError(
                f"length is {length!r:.80}; it must be from 1 to the model's context, {model.context_length}"
            )
        if memory is not None:
            slots = min(slots, _slots_in(memory, length, model))
        self.runner = ModelRunner(model, slots, length)
        self.scheduler = Scheduler(slots)
        self.allowed = model.grammar.allowed().to(self.device)  # [states, V]
        self.offered = self.allowed.clone()
        self.offered[:, self.vocabulary.sentinel_start :] = False  # mask tokens are set, not chosen
        self.lock = new_lock()
        self._ids = count()
        self._events: list[Event] = []

    @classmethod
    def sized_for(
        cls, model: JointModel, requests: Sequence[Request], codec: Codec | None = None, memory: int | None = None
    ) -> Engine:
        """An engine whose cache is no larger than these requests need, and than `memory` allows."""
        context = model.context_length
        cursors = [read_prompt(request, model.grammar) for request in requests]
        limits = [
            Limits.of(request, cursor, context, context, can_read=codec is not None)
            for request, cursor in zip(requests, cursors, strict=True)
        ]
        length = max((limit.slot_length for limit in limits), default=1)
        return cls(model, codec, max(1, sum(limit.slots for limit in limits)), length, memory)

    def submit(self, request: Request) -> ActiveRequest:
        """Put a request at the end of the queue.

        Raises:
            ValueError: it cannot be met (`Limits.of`, `Scheduler.submit`).
        """
        return self.submit_all([request])[0]

    @in_one_thread
    def submit_all(self, requests: Sequence[Request], is_heard: bool = True) -> list[ActiveRequest]:
        """Put requests at the end of the queue, all of them or none.

        Args:
            is_heard: whether anybody takes their events but the last ones.

        Raises:
            ValueError: one cannot be met.
        """
        rows = [self._row(request, is_heard) for request in requests]
        submitted: list[ActiveRequest] = []
        try:
            for row in rows:
                self.scheduler.submit(row)
                submitted.append(row)
        except ValueError:
            self.scheduler.release(submitted)
            raise
        return rows

    @in_one_thread
    def cancel(self, *rows: ActiveRequest) -> None:
        """End documents now; what is whole of them stays. No effect on a document that is finished."""
        ended = [row for row in rows if row.finish_reason is None]
        with self._failing(ended):
            for row in ended:
                row.finish("cancelled")
        self._release(ended)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to be done."""
        return not (self.scheduler.waiting or self.scheduler.running or self._events)

    @in_one_thread
    @torch.inference_mode()
    def step(self) -> list[Event]:
        """Let waiting requests in, read more of the prompts, write a token in every row that is ready.

        What the network raises comes out. The rows that were being read, or written, have failed then, which the next
        step tells; all others go on with it.
        """
        begun = self.scheduler.admit()
        with self._failing(begun):
            for row in begun:
                row.begin()
        rows = self.scheduler.running
        with self._failing(rows):
            for slot in (slot for row in rows for slot in _slots_of(row) if slot.restart):
                self._restart(slot)
        unread = [row for row in rows if any(slot.is_unread for slot in _slots_of(row))]
        with self._failing(unread):
            self._prefill([slot for row in unread for slot in _slots_of(row) if slot.is_unread])
        ready = [row for row in rows if not any(slot.is_unread for slot in _slots_of(row))]
        with self._failing(ready):
            if ready:
                self._write(ready)
        for row in ready:
            self._events += row.take_events()
        self._release([row for row in ready if row.finish_reason is not None])
        events, self._events = self._events, []
        return events

    def events(self) -> Iterator[Event]:
        """Step until nothing is left to be done."""
        while not self.is_idle:
            yield from self.step()

    @in_one_thread
    def run(
        self,
        prompts: Sequence[list[int] | Request],
        settings: GenerationSettings | Sequence[GenerationSettings] | None = None,
        on_step: OnStep | None = None,
    ) -> list[Generation]:
        """Continue each prompt to the end of its document; if that goes wrong, all of them are cancelled.

        What happens to requests that were submitted before stays to be told by the next `step`.

        Args:
            prompts: whole requests, or joint ids with `settings` beside them.
            settings: one for all prompts (each draws apart, see `GenerationSettings.for_row`), or one for each.
            on_step: called with all rows after every step, for progress.

        Raises:
            ValueError: a request cannot be met; then none runs. Or one failed, when all have ended.
        """
        rows = self.submit_all(requests_of(prompts, settings), is_heard=False)
        own, of_others = {row.id for row in rows}, list[Event]()
        try:
            while any(row.finish_reason is None for row in rows):
                of_others += [event for event in self.step() if event.id not in own]
                if on_step is not None:
                    on_step(rows)
        finally:
            self.cancel(*rows)
            self._events = of_others + [event for event in self._events if event.id not in own]
        return [row.result().checked() for row in rows]

    @in_one_thread
    def end(self, session: Session) -> None:
        """Give the memory of a session back. Raises ValueError while it is answering."""
        if session.busy:
            raise ValueError("this session is answering; cancel its request first, or wait for its end")
        if session.slot is not None:
            self.runner.truncate(session.slot)
        self.scheduler.end(session)

    def _row(self, request: Request, is_heard: bool) -> ActiveRequest:
        cursor, length, context = (
            read_prompt(request, self.model.grammar),
            self.runner.length,
            self.model.context_length,
        )
        limits = Limits.of(request, cursor, length, context, can_read=self.codec is not None)
        return ActiveRequest(next(self._ids), request, Progress(request, cursor, limits), self.codec, is_heard)

    def _restart(self, slot: Slot) -> None:
        """Keep what a slot has in common with the ids that it is to hold; the last one is read with the next step."""
        common = common_length(self.runner.ids[slot.index], slot.pending[:-1])
        self.runner.truncate(slot.index, common)
        slot.pending = slot.pending[common:]
        slot.restart, slot.is_prompt = False, True
        slot.is_planned, slot.leader = False, None

    @contextmanager
    def _failing(self, rows: Sequence[ActiveRequest]) -> Iterator[None]:
        """An error ends the rows that it may have left with half a step: none of them would ever be ready again."""
        try:
            yield
        except BaseException as error:
            for row in rows:
                if row.finish_reason is None:
                    row.fail(error)
            self._release(rows)
            raise

    def _release(self, rows: Sequence[ActiveRequest]) -> None:
        """Take rows out; their memory is free again, but for what a session keeps."""
        for row in rows:
            for slot in row.slots if row.finish_reason == "failed" else ():
                self.runner.wipe(slot.index)
        for index in self.scheduler.release(rows):
            self.runner.truncate(index)
        for row in rows:
            self._events += row.take_events()

    def _prefill(self, slots: list[Slot]) -> None:
        """Read pending ids, but never the last one of a slot; what slots share is read once.

        Slots take their parts of one `CHUNK` in the order of their rows, so that rows that write do not wait for long.
        """
        if not slots:
            return
        running = [slot for row in self.scheduler.running for slot in row.slots]
        chunks: dict[int, list[int]] = {}
        reading, left = share(slots, running, self.runner), CHUNK
        for slot in reading:
            if left:
                chunks[slot.index] = slot.pending[: min(left, len(slot.pending) - 1)]
                slot.pending = slot.pending[len(chunks[slot.index]) :]
                left -= len(chunks[slot.index])
        if chunks:
            self.runner.prefill(list(chunks), list(chunks.values()))
            share(slots, running, self.runner)

    def _write(self, rows: list[ActiveRequest]) -> None:
        """One forward, and one token for every row; rows with more forced ids than the forward takes only read some."""
        width = self.runner.width(sum(len(_slots_of(row)) for row in rows))
        behind = [slot for row in rows for slot in _slots_of(row) if len(slot.pending) > width]
        rows = [row for row in rows if all(len(slot.pending) <= width for slot in _slots_of(row))]
        guided = [index for index, row in enumerate(rows) if row.guiding is not None]
        own = [row.slot for row in rows if row.slot is not None]
        slots = [*own, *(row.guiding for row in rows if row.guiding is not None), *behind]
        ids = [slot.pending[:width] for slot in slots]
        for slot in slots:
            slot.pending, slot.is_prompt = slot.pending[width:], False
        if not rows:
            return self.runner.prefill([slot.index for slot in slots], ids)
        row_states = [row.progress.state for row in rows]
        states = [*row_states, *(State.IMAGE for _ in guided)]
        logits = self.runner.forward([slot.index for slot in slots], ids, states)
        logits_RV, unconditional_GV = logits.split([len(rows), len(guided)])
        states_R = self._tensor(row_states)
        log_probs_RV = logits_RV.masked_fill(~self.allowed[states_R], -torch.inf).log_softmax(-1)
        if guided:
            scale_G = self._tensor([rows[index].progress.guidance for index in guided])
            logits_RV[guided] = guide(logits_RV[guided], unconditional_GV, scale_G)
        tokens_R, found_R = self._choose(rows, logits_RV, states_R)
        chosen_R = log_probs_RV.gather(-1, tokens_R.unsqueeze(-1)).squeeze(-1).masked_fill(~found_R, torch.nan)
        for row, token, log_prob in zip(rows, tokens_R.tolist(), chosen_R.tolist(), strict=True):
            row.take(token, log_prob)

    def _choose(self, rows: list[ActiveRequest], logits_RV: Tensor, states_R: Tensor) -> tuple[Tensor, Tensor]:
        """One token a row, [R], within the grammar and the row's rules; and whether its logits let it be found, [R]."""
        offered_RV = self.offered[states_R]
        rules = [row.rules() for row in rows]
        if closed := [(index, token) for index, (_, tokens) in enumerate(rules) for token in tokens]:
            offered_RV[tuple(self._tensor(list(pair)) for pair in zip(*closed, strict=True))] = False
        if forced := [(index, token) for index, (token, _) in enumerate(rules) if token is not None]:
            at, tokens = (self._tensor(list(pair)) for pair in zip(*forced, strict=True))
            offered_RV[at] = False
            offered_RV[at, tokens] = True
            logits_RV[at, tokens] = 0.0  # what must come comes, even if the model cannot write it
        in_image = [row.progress.in_image for row in rows]
        for index, row in enumerate(rows):
            seen = row.progress.seen
            if seen and row.settings.repetition_penalty != 1 and not in_image[index]:
                penalise(logits_RV[index], self._tensor(list(seen)), row.settings.repetition_penalty)
        choices = Choices.of([row.settings for row in rows], in_image)
        uniform_R = self._tensor([row.uniform for row in rows])
        logits_RV = logits_RV.where(offered_RV, -torch.inf)
        return sample(logits_RV, choices, uniform_R), logits_RV.amax(-1).isfinite()

    def _tensor(self, values: list) -> Tensor:
        return torch.tensor(values, device=self.device)


def _slots_of(row: ActiveRequest) -> list[Slot]:
    """What the next token of a row waits for."""
    return [slot for slot in (row.slot, row.guiding) if slot is not None]


def _slots_in(memory: int, length: int, model: JointModel) -> int:
    """How many slots of `length` ids fit into `memory` bytes."""
    size = length * bytes_per_token(model)
    if memory < size:
        raise ValueError(
            f"a slot of {length} tokens takes {size / 2**20:.1f} MiB of cache, and the memory for it is "
            f"{memory / 2**20:.1f} MiB; {memory * length // size} tokens would fit: set max_new_tokens, give a shorter "
            "length, or more memory"
        )
    return memory // size
