"""One request while it is decoded: where it stands in the grammar, its budget, its rules and draws, its slots."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from jam.generation.checks import check_budget, check_settings, check_unconditional
from jam.generation.events import Event, Finished
from jam.generation.guidance import unconditional_prefix
from jam.generation.reporter import Reporter
from jam.generation.request import Request, read_prompt, tokens_of_image, tokens_of_spans
from jam.generation.result import FinishReason, Generation
from jam.generation.sampling import draws
from jam.grammar import Grammar, State

if TYPE_CHECKING:
    from jam.codec import Codec

IMAGES = (State.IMAGE, State.IMAGE_SPAN)
PICTURE_ROOM = 32  # ids of text that are given up for the end of a sentence before a picture that must come


@dataclass(eq=False)
class Slot:
    """A slot of the cache, by its `index`, and the ids that are to be read into it next.

    It may wait for another one, the `leader`, to read the first `shared` ids, which are then copied (prefixes.py);
    `is_planned` says whether one was looked for.
    """

    index: int
    pending: list[int] = field(default_factory=list)
    restart: bool = False  # what the slot has read before is forgotten first
    leader: Slot | None = None
    shared: int = 0
    is_planned: bool = False

    @property
    def is_unread(self) -> bool:
        """Whether more is to be read than the one id with which the next token is written."""
        return len(self.pending) > 1 or self.restart


class ActiveRequest:
    """A request, waiting or being written, and what has been written so far.

    Args:
        request: what is asked.
        grammar: of the model.
        length: ids that a slot of the cache holds.
        context: ids that the model takes.
        codec: reads text; without it there are no text events, no stop strings and no sentence ends.

    Raises:
        ValueError: the prompt cannot be continued, or the settings ask for what this model or this room does not have.
    """

    def __init__(self, request: Request, grammar: Grammar, length: int, context: int, codec: Codec | None) -> None:
        self.request, self.grammar = request, grammar
        self.prompt, self.settings = request.prompt, request.settings
        check_settings(self.settings, grammar, context, can_read=codec is not None)
        check_unconditional(request.unconditional or [], grammar)
        self.cursor = read_prompt(self.prompt, grammar, self.settings.image_grid)
        self.image_cost = tokens_of_image(grammar, self.settings.image_grid) if grammar.vocabulary.image_size else 0
        self.fills = bool(self.cursor.spans)
        room = length - len(self.prompt)
        self.budget = room if self.settings.max_new_tokens is None else min(self.settings.max_new_tokens, room)
        self.new_ids: list[int] = []
        self.log_probs: list[float] = []
        self.images = 0
        self.finish_reason: FinishReason | None = None
        self.slot: Slot | None = None  # both are lent by the scheduler
        self.unconditional: Slot | None = None
        check_budget(self, length)
        self.reporter = Reporter(self, codec)
        self.seen = {token for token in self.prompt if grammar.vocabulary.is_text(token)}  # text ids so far
        self._cut_gaps: list[int] = []  # whose texts the budget closed
        self._generation: Generation | None = None
        self._follow_grammar()

    @property
    def is_guided(self) -> bool:
        """Whether the row has a second, unconditional slot while it is in a picture."""
        may_draw = self.settings.max_images != 0 or self.state in (*IMAGES, State.FRAME) or self.fills
        return self.settings.is_guided and may_draw

    @property
    def slots_needed(self) -> int:
        return 1 + self.is_guided

    @property
    def state(self) -> State:
        """State of the next token."""
        return self.cursor.state

    @property
    def in_image(self) -> bool:
        """Whether the next token is an image code."""
        return self.state in IMAGES

    @property
    def guiding(self) -> Slot | None:
        """The unconditional slot, if it guides the next token."""
        return self.unconditional if self.in_image else None

    @property
    def guidance(self) -> float:
        """Alpha of the next token."""
        return self.settings.guidance_at(self.cursor.codes / max(1, self.image_tokens - 1))

    @property
    def image_tokens(self) -> int:
        """Codes of the picture that is open."""
        picture = self.cursor.picture
        return self.grammar.image_tokens if picture is None else picture.grid[0] * picture.grid[1]

    @property
    def unconditional_prefix(self) -> list[int]:
        """What stands before the picture in the unconditional slot."""
        given = self.request.unconditional
        return unconditional_prefix(self.grammar.vocabulary) if given is None else given

    @property
    def unconditional_length(self) -> int:
        """Ids that the unconditional slot of a picture has."""
        return len(self.unconditional_prefix) + self.image_cost

    @property
    def remaining(self) -> int:
        """How many tokens may still be written."""
        return self.budget - len(self.new_ids)

    @cached_property
    def uniforms(self) -> list[float]:
        """The random numbers that decide the new tokens, each one; drawn when the first is asked for."""
        return draws(self.settings, self.budget).tolist()

    @property
    def uniform(self) -> float:
        """The random number that decides the next token."""
        return self.uniforms[len(self.new_ids)]

    @property
    def ids(self) -> list[int]:
        return self.prompt + self.new_ids

    @property
    def gaps_filled(self) -> int:
        """Gaps that are done."""
        return max(0, self.cursor.next_span - (self.state is not State.CLOSED))

    @property
    def missing_images(self) -> int:
        """Pictures that must still come."""
        return max(0, self.settings.min_images - self.images)

    def begin(self, kept: int) -> None:
        """The row has its slots, the first `kept` ids of the prompt lie in its own."""
        assert self.slot is not None
        self.slot.pending = self.ids[kept:]
        if self.guiding is not None:
            self._open_unconditional()

    def rules(self) -> tuple[int | None, list[int]]:
        """(The id that must come next, if one must; the ids of the state that may not.)"""
        v, state, closed = self.grammar.vocabulary, self.state, []
        if state is State.TEXT:
            if self._must_break():
                return v.open_id, []
            if not self._may_break():
                closed.append(v.open_id)
        if state in (State.TEXT, State.IMAGE_END) and self.missing_images:
            closed += v.end_ids
        if state is State.TEXT_SPAN:
            if self._must_close():
                return v.eoss_id, []
            if v.is_sentinel((self.new_ids or self.prompt)[-1]):
                closed.append(v.eoss_id)  # a gap is not filled with nothing
        if state is State.IMAGE_SPAN:
            closed.append(v.eoss_id)
        return None, closed

    def take(self, token: int, log_prob: float) -> None:
        """Append the token that was chosen, and those that the grammar forces after it; nan: none was found."""
        if math.isnan(log_prob):
            return self.finish("failed")
        self._append(token, log_prob)
        self._follow_grammar()

    def _follow_grammar(self) -> None:
        while self.finish_reason is None and (forced := self.cursor.forced()):
            self._append(forced[0], 0.0)

    def fail(self, error: BaseException) -> None:
        """End the document where a step raised `error`; nothing more of its text is read, which may raise again."""
        self.reporter.run = None
        self.finish("failed", error=f"{type(error).__name__}: {error}")

    def finish(self, reason: FinishReason, text_end: int | None = None, error: str | None = None) -> None:
        """End the document; a picture that is not whole is left out, and of a text what `TextRun.cut` says."""
        self.finish_reason = reason
        count = self.reporter.finish(reason)
        ids, log_probs, is_cut = self.new_ids[:count], self.log_probs[:count], self.reporter.is_cut
        self._generation = Generation(
            self.prompt, ids, log_probs, reason, self.images, text_end, error, is_cut, self._cut_gaps
        )
        self.reporter.events.append(Finished(self, self._generation))

    def result(self) -> Generation:
        """Raises ValueError if the row is not finished."""
        if self._generation is None:
            raise ValueError("this document is not finished: call Engine.step until it is")
        return self._generation

    def take_events(self) -> list[Event]:
        """What happened since the last call."""
        events, self.reporter.events = self.reporter.events, []
        return events

    def _append(self, token: int, log_prob: float) -> None:
        before, images = self.state, self.cursor.images
        if before is State.TEXT_SPAN and self._must_close():
            self._cut_gaps.append(self.cursor.next_span - 1)
        self.cursor.feed(token)
        if before in (State.TEXT, State.TEXT_SPAN) and self.grammar.vocabulary.is_text(token):
            self.seen.add(token)
        self.new_ids.append(token)
        self.log_probs.append(log_prob)
        if self.slot is not None:
            self.slot.pending.append(token)
        if self.unconditional is not None and self.state in (*IMAGES, State.FRAME):
            if self.cursor.codes:
                self.unconditional.pending.append(token)
            elif self.in_image:
                self._open_unconditional()
        fills = before is State.IMAGE_SPAN and self.grammar.vocabulary.is_image(token)
        self.images += self.cursor.images - images + (fills and self.cursor.codes == self.image_tokens)
        self._end_if_done(token, self.reporter.follow(before, token))

    def _end_if_done(self, token: int, text_end: int | None) -> None:
        v = self.grammar.vocabulary
        out: FinishReason = "max_new_tokens" if self.budget == self.settings.max_new_tokens else "context"
        if text_end is not None:
            self.finish("stop", text_end)
        elif v.ends_document(token):
            self.finish("end")
        elif self.state is State.CLOSED and self.cursor.next_span == len(self.cursor.spans):
            self.finish(out if self._cut_gaps else "end")
        elif self.remaining == 0:
            self.finish(out)

    def _open_unconditional(self) -> None:
        """The unconditional slot of the picture that is open: its prompt, then what is there of the picture."""
        assert self.guiding is not None
        if self.state is State.IMAGE:
            picture = self.ids[len(self.ids) - self.cursor.image_ids :]
        else:
            picture = self.grammar.vocabulary.pictures.write_opening(self.grammar.grid)
        self.guiding.pending = [*self.unconditional_prefix, *picture]
        self.guiding.restart = True

    def _must_close(self) -> bool:
        """Whether a gap for text must end, because the budget holds no more than the gaps behind it need."""
        later = tokens_of_spans(self.cursor.spans[self.cursor.next_span :], self.grammar)
        return self.remaining <= 1 + later

    def _may_break(self) -> bool:
        """A picture begins only if it fits as a whole, with one id behind it."""
        fits = self.remaining >= self.image_cost
        return fits and (self.settings.max_images is None or self.images < self.settings.max_images)

    def _must_break(self) -> bool:
        """Behind one id of text more, what must come would not fit; if possible between two sentences."""
        if not self.missing_images:
            return False
        spare = self.remaining - self.missing_images * self.image_cost
        return spare < 1 or (spare < PICTURE_ROOM and self.reporter.at_sentence_end)
