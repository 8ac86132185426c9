"""One request while it is decoded: its progress, its draws, its slots of the cache, and what it tells."""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING

from jam.generation.events import Event, Finished
from jam.generation.progress import Progress
from jam.generation.reporter import Reporter
from jam.generation.request import Request
from jam.generation.result import FinishReason, Generation
from jam.generation.sampling import draws
from jam.generation.slots import Slot
from jam.grammar import State

if TYPE_CHECKING:
    from jam.codec import Codec


class ActiveRequest:
    """A request, waiting or being written, and what has been written so far.

    Args:
        id: names it in events.
        request: what is asked.
        progress: of the request, at its prompt.
        codec: reads text; without it there are no text events, no stop strings and no sentence ends.
        is_heard: whether anybody takes its events but the last one.
    """

    def __init__(
        self,
        id: int,
        request: Request,
        progress: Progress,
        codec: Codec | None = None,
        is_heard: bool = True,
    ) -> None:
        self.id, self.request, self.progress, self.limits = id, request, progress, progress.limits
        self.prompt, self.settings = request.prompt, request.settings
        self.log_probs: list[float] = []
        self.finish_reason: FinishReason | None = None
        self.slot: Slot | None = None  # both are lent by the scheduler
        self.unconditional: Slot | None = None
        self.reporter = Reporter(id, self.progress, codec, is_heard)
        self._generation: Generation | None = None
        self._follow_grammar()

    @property
    def slots(self) -> list[Slot]:
        """Those that it has been lent."""
        return [slot for slot in (self.slot, self.unconditional) if slot is not None]

    @property
    def guiding(self) -> Slot | None:
        """The unconditional slot, if it guides the next token."""
        return self.unconditional if self.progress.in_image else None

    @property
    def new_ids(self) -> list[int]:
        return self.progress.new_ids

    @property
    def images(self) -> int:
        """New pictures that are whole."""
        return self.progress.images

    @cached_property
    def uniforms(self) -> list[float]:
        """The random numbers that decide the new tokens, each one; drawn when the first is asked for."""
        return draws(self.settings, self.limits.budget).tolist()

    @property
    def uniform(self) -> float:
        """The random number that decides the next token."""
        return self.uniforms[len(self.new_ids)]

    def begin(self) -> None:
        """The row has its slots: say what they are to hold."""
        assert self.slot is not None
        self.slot.hold(self.progress.ids)
        if self.guiding is not None:
            self.guiding.hold(self.progress.unconditional_ids())

    def rules(self) -> tuple[int | None, list[int]]:
        """As `Progress.rules`."""
        return self.progress.rules(lambda: self.reporter.at_sentence_end)

    def take(self, token: int, log_prob: float) -> None:
        """Append the token that was chosen, and the ids that the grammar forces next; nan: logits were not finite."""
        if math.isnan(log_prob):
            return self.finish("failed")
        self._append(token, log_prob)
        self._follow_grammar()

    def fail(self, error: BaseException) -> None:
        """End the document where a step raised `error`; nothing more of its text is read, which may raise again."""
        self.reporter.run = None
        self.finish("failed", error=error)

    def finish(self, reason: FinishReason, text_end: int | None = None, error: BaseException | None = None) -> None:
        """End the document; a picture that is not whole is left out, and of a text what `TextRun.cut` says."""
        count = self.reporter.finish(reason)
        self.finish_reason = reason
        self._generation = Generation(
            self.prompt,
            self.new_ids[:count],
            self.log_probs[:count],
            reason,
            self.images,
            text_end,
            error,
            self.reporter.is_cut,
            self.progress.cut_gaps,
        )
        self.reporter.events.append(Finished(self.id, self._generation))

    def result(self) -> Generation:
        """Raises ValueError if the row is not finished."""
        if self._generation is None:
            raise ValueError("this document is not finished: call Engine.step until it is")
        return self._generation

    def take_events(self) -> list[Event]:
        """What happened since the last call."""
        events, self.reporter.events = self.reporter.events, []
        return events

    def _follow_grammar(self) -> None:
        while self.finish_reason is None and (forced := self.progress.cursor.forced()):
            self._append(forced[0], 0.0)

    def _append(self, token: int, log_prob: float) -> None:
        before = self.progress.state
        self.progress.feed(token)
        self.log_probs.append(log_prob)
        if self.slot is not None:
            self.slot.pending.append(token)
        if self.unconditional is not None and (self.progress.in_image or self.progress.state is State.FRAME):
            if self.progress.cursor.codes:
                self.unconditional.pending.append(token)
            elif self.progress.in_image:
                self.unconditional.hold(self.progress.unconditional_ids())
        text_end = self.reporter.follow(before, token)
        reason: FinishReason | None = "stop" if text_end is not None else self.progress.end()
        if reason is not None:
            self.finish(reason, text_end)
