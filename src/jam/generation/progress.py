"""How far a document has come: what it holds, what must come next, what may not. It knows no model, cache or text."""

from __future__ import annotations

import copy
from collections.abc import Callable

from jam.generation.limits import Limits
from jam.generation.request import Request, tokens_of_spans
from jam.generation.result import FinishReason
from jam.grammar import Cursor, State

PICTURE_ROOM = 32  # ids of text that are given up for the end of a sentence before a picture that must come


class Progress:
    """What has been written of a request, and what its grammar, settings and limits say about the next id.

    Args:
        request: what is asked.
        cursor: after the prompt (`read_prompt`), from where it moves with the document.
        limits: of the request.

    Attributes:
        new_ids: ids after the prompt.
        images: pictures completed in `new_ids`.
        seen: text ids of the prompt and of what is written.
        cut_gaps: gaps, counted from 0, whose texts the budget closed.
    """

    def __init__(self, request: Request, cursor: Cursor, limits: Limits) -> None:
        self.request, self.cursor, self.limits, self.settings = request, cursor, limits, request.settings
        self.grammar = cursor.grammar
        self.new_ids: list[int] = []
        self.images = 0
        self.seen = {token for token in request.prompt if self.grammar.vocabulary.is_text(token)}
        self.cut_gaps: list[int] = []

    def copy(self) -> Progress:
        """An independent progress at the same place."""
        other = copy.copy(self)
        other.cursor = self.cursor.copy()
        other.new_ids, other.seen, other.cut_gaps = self.new_ids[:], set(self.seen), self.cut_gaps[:]
        return other

    @property
    def state(self) -> State:
        """State of the next id."""
        return self.cursor.state

    @property
    def in_image(self) -> bool:
        """Whether the next id is an image code."""
        return self.state.is_image

    @property
    def ids(self) -> list[int]:
        return self.request.prompt + self.new_ids

    @property
    def remaining(self) -> int:
        """How many ids may still be written."""
        return self.limits.budget - len(self.new_ids)

    @property
    def missing_images(self) -> int:
        """Pictures that must still come."""
        return max(0, self.settings.min_images - self.images)

    @property
    def grid(self) -> tuple[int, int]:
        """Shape of the picture that is open."""
        return self.grammar.grid if self.cursor.picture is None else self.cursor.picture.grid

    @property
    def image_tokens(self) -> int:
        """Codes of the picture that is open."""
        return self.grid[0] * self.grid[1]

    @property
    def guidance(self) -> float:
        """Alpha of the next image code."""
        return self.settings.guidance_at(self.cursor.codes / max(1, self.image_tokens - 1))

    @property
    def gaps_filled(self) -> int:
        """Gaps that are done."""
        return max(0, self.cursor.next_span - (self.state is not State.CLOSED))

    def unconditional_ids(self) -> list[int]:
        """The ids of the second slot: its prompt, then the open picture so far."""
        prefix = self.limits.unconditional
        assert prefix is not None and self.in_image
        if self.state is State.IMAGE:
            picture = self.ids[-self.cursor.image_ids :]
        else:
            picture = self.grammar.vocabulary.pictures.write_opening(self.grammar.grid)
        return [*prefix, *picture]

    def rules(self, at_sentence_end: Callable[[], bool] = lambda: False) -> tuple[int | None, list[int]]:
        """(The id that must come next, if one must; the ids of the state that may not.)

        Args:
            at_sentence_end: says whether the text ends with a sentence; it is asked only where that matters.
        """
        v, state, closed = self.grammar.vocabulary, self.state, []
        if state is State.TEXT:
            if self._must_break(at_sentence_end):
                return v.open_id, []
            if not self._may_break():
                closed.append(v.open_id)
        if state in (State.TEXT, State.IMAGE_END) and self.missing_images:
            closed += v.end_ids
        if state is State.TEXT_SPAN:
            if self._must_close():
                return v.eoss_id, []
            if v.is_sentinel((self.new_ids or self.request.prompt)[-1]):
                closed.append(v.eoss_id)  # a gap is not filled with nothing
        if state is State.IMAGE_SPAN:
            closed.append(v.eoss_id)
        return None, closed

    def feed(self, token: int) -> None:
        """Append an id. Raises ValueError if the grammar does not allow it."""
        v, before, images = self.grammar.vocabulary, self.state, self.cursor.images
        if before is State.TEXT_SPAN and self._must_close():
            self.cut_gaps.append(self.cursor.next_span - 1)
        self.cursor.feed(token)
        if before.is_text and v.is_text(token):
            self.seen.add(token)
        self.new_ids.append(token)
        fills = before is State.IMAGE_SPAN and v.is_image(token)
        self.images += self.cursor.images - images + (fills and self.cursor.codes == self.image_tokens)

    def end(self) -> FinishReason | None:
        """Why the document ends after its newest id; None: it continues."""
        if self.grammar.vocabulary.ends_document(self.new_ids[-1]):
            return "end"
        if self.state is State.CLOSED and self.cursor.next_span == len(self.cursor.spans):
            return self.limits.spent if self.cut_gaps else "end"
        return self.limits.spent if self.remaining == 0 else None

    def _must_close(self) -> bool:
        """Whether a gap for text must end, because the budget holds no more than the later gaps need."""
        later = tokens_of_spans(self.cursor.spans[self.cursor.next_span :], self.grammar)
        return self.remaining <= 1 + later

    def _may_break(self) -> bool:
        """Whether a whole picture, with one id after it, fits into the budget, and may be begun."""
        fits = self.remaining >= self.limits.image_cost
        return fits and (self.settings.max_images is None or self.images < self.settings.max_images)

    def _must_break(self, at_sentence_end: Callable[[], bool]) -> bool:
        """Behind one id of text more, what must come would not fit; if possible between two sentences."""
        if not self.missing_images:
            return False
        spare = self.remaining - self.missing_images * self.limits.image_cost
        return spare < 1 or (spare < PICTURE_ROOM and at_sentence_end())
