"""The grammar of mixed-modal sequences: what may come next (docs/method.md, section 3).

One object serves the loss (state of every target), the readout (which vocabulary is possible) and decoding (what may be
sampled), so that a broken stream can be neither trained nor produced. `<break>` toggles between text and image; an
image that begins a document, or comes after another image, therefore follows an empty text. With a family's layout an
image stands within its frame instead, and text follows it without a token between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cached_property

import numpy as np
import torch

from jam.layout import CODE, Grid, PictureReader, up_to_code
from jam.vocabulary import Vocabulary


class State(IntEnum):
    """The state in which a token is chosen."""

    TEXT = 0  # text ids, <break>, </s>, sentinels
    IMAGE = 1  # image codes, until the grid is full
    IMAGE_END = 2  # <break> or </s>
    MASKED_IMAGE = 3  # an image that holds a sentinel: codes, sentinels, <break>, </s>
    CLOSED = 4  # the source is closed and spans follow: <sentinel:i>, in order
    TEXT_SPAN = 5  # relocated text: text ids, <eoss>
    IMAGE_SPAN = 6  # relocated image codes: codes, <eoss>
    FRAME = 7  # the frame of an image after its first token: it follows from the size, and is not learnt

    @property
    def is_image(self) -> bool:
        """Whether the image tower answers in this state; the text tower answers in the others."""
        return self in (State.IMAGE, State.MASKED_IMAGE, State.IMAGE_SPAN)

    @property
    def is_text(self) -> bool:
        """Whether ordinary text may be written in this state."""
        return self in (State.TEXT, State.TEXT_SPAN)

    @property
    def is_span(self) -> bool:
        """Whether a relocated span is written in this state."""
        return self in (State.TEXT_SPAN, State.IMAGE_SPAN)


STATES = tuple(State)
IMAGE_STATES = torch.tensor([state.is_image for state in State])


@dataclass(frozen=True)
class Grammar:
    """The state machine over `vocabulary`.

    Args:
        grid: shape of an image that does not say its size.
    """

    vocabulary: Vocabulary
    grid: Grid = (0, 0)

    def __post_init__(self) -> None:
        if self.vocabulary.image_size and self.image_tokens < 1:
            raise ValueError(f"grammar: an image must have at least one token; got {self.grid[0]} x {self.grid[1]}")

    @property
    def image_tokens(self) -> int:
        """Codes of an image that does not say its size."""
        return self.grid[0] * self.grid[1]

    def allowed(self) -> torch.Tensor:
        """Table of allowed ids, bool ``[states, vocabulary.size]``."""
        v, layout = self.vocabulary, self.vocabulary.pictures
        table = torch.zeros(len(State), v.size, dtype=torch.bool, device="cpu")
        text, codes = slice(0, v.text_size), slice(v.image_start, v.control_start)
        sentinels = slice(v.sentinel_start, v.size)
        table[State.TEXT, text] = table[State.TEXT, sentinels] = True
        table[State.IMAGE, codes] = True
        table[State.IMAGE_END, [*layout.separator, *v.end_ids]] = True
        table[State.MASKED_IMAGE, codes] = table[State.MASKED_IMAGE, sentinels] = True
        if layout.separator:
            table[State.MASKED_IMAGE, list(layout.closers)] = True
        table[State.CLOSED, sentinels] = True
        table[State.TEXT_SPAN, text] = True
        table[State.TEXT_SPAN, list(v.end_ids)] = False
        table[State.IMAGE_SPAN, codes] = True
        table[[State.TEXT_SPAN, State.IMAGE_SPAN], v.eoss_id] = True
        for first, end in v.text_image_ids:
            table[:, first:end] = False
        for state in (State.TEXT, State.TEXT_SPAN):
            table[state, list(layout.reserved)] = False
            table[state, layout.open_id] = state is State.TEXT and v.image_size > 0
        table[State.FRAME, sorted(layout.frame_ids)] = True
        return table

    @cached_property
    def _allowed(self) -> np.ndarray:
        return self.allowed().numpy()

    def states(self, ids: Sequence[int]) -> list[State]:
        """The state in which each id of one document was chosen; the ids that open it (`begin_ids`) count as TEXT.

        The document may be unfinished. What an image is depends on what follows in it: one that holds a sentinel is
        MASKED_IMAGE from its first position.

        Raises:
            ValueError: the sequence breaks the grammar (the message names the position).
        """
        return [STATES[state] for state in self.state_array(ids).tolist()]

    def state_array(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """`states` as int64 ``[len(ids)]``, computed segment by segment; every training example passes through here."""
        v = self.vocabulary
        tokens = np.asarray(ids, dtype=np.int64)
        opening, close = v.opening_of(tokens), v.close_of(tokens)
        states = np.full(len(tokens), State.TEXT, dtype=np.int64)
        source_end = len(tokens) if close is None else close + 1  # after the id that closes it
        fits = (tokens >= 0) & (tokens < v.size)
        known = np.where(fits, tokens, 0)
        sentinels = np.flatnonzero(known[:source_end] >= v.sentinel_start).tolist()
        self._follow_pictures(tokens, states, fits, source_end, sentinels)
        self._follow_spans(tokens, states, fits, source_end, sentinels)
        fits &= self._allowed[states, known]
        fits[:opening] = True
        if not fits.all():
            position = int(fits.argmin())
            token, state = int(tokens[position]), State(states[position])
            name = v.name(token) if token == known[position] else f"id {token}, outside this vocabulary of {v.size},"
            raise ValueError(f"position {position}: {name} may not come in state {state.name}")
        return states

    def places_outside_pictures(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Where a document without masks has no pictures; the ids that open and close it are among these."""
        outside = np.ones(len(ids), dtype=bool)
        for frame in self.vocabulary.pictures.frames(ids):
            outside[frame.start : frame.end] = False
        return np.flatnonzero(outside)

    def _follow_pictures(
        self, tokens: np.ndarray, states: np.ndarray, fits: np.ndarray, source_end: int, sentinels: list[int]
    ) -> None:
        """Fill in the states of the images, and in `fits` whether their frames are as they must be.

        A masked image's frame is known, but not where its rows end. `sentinels`: positions of those in the source.
        """
        layout = self.vocabulary.pictures
        has_choice, has_frame = bool(layout.separator), bool(layout.frame_ids)
        usual = self._body(self.grid)
        for start, first, _, close, _, grid in layout.frames(tokens[:source_end]):
            place, (body, chosen_in) = first, usual if grid is None else self._body(grid)
            if sentinels and any(first <= sentinel < close for sentinel in sentinels):
                inside = slice(first, close + has_choice)
                states[inside] = np.where(tokens[inside] == layout.row_end, State.FRAME, State.MASKED_IMAGE)
                place, (body, chosen_in) = close, self._closing
            elif has_choice and close >= first + len(body):
                states[first : close + 1] = State.IMAGE_END  # more than its codes stand there
            stop = min(place + len(body), source_end)
            states[place:stop] = chosen_in[: stop - place]
            if has_frame:
                states[start + 1 : first] = State.FRAME
                rest = body[: stop - place]
                fits[place:stop] &= (rest == CODE) | (rest == tokens[place:stop])

    @cached_property
    def _closing(self) -> tuple[np.ndarray, np.ndarray]:
        """The ids that close an image, and their states."""
        ids = np.asarray(self.vocabulary.pictures.closing, dtype=np.int64)
        return ids, np.full(len(ids), State.FRAME, dtype=np.int64)

    def _body(self, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        """`PictureLayout.body` and the states of its ids, kept for every size; a choice after it counts as a code."""
        if grid not in self._bodies:
            body = self.vocabulary.pictures.body(grid)
            states = np.where(body == CODE, State.IMAGE, State.FRAME)
            if self.vocabulary.pictures.separator:
                body, states = np.append(body, CODE), np.append(states, State.IMAGE_END)
            self._bodies[grid] = body, states
        return self._bodies[grid]

    @cached_property
    def _bodies(self) -> dict[Grid, tuple[np.ndarray, np.ndarray]]:
        return {}

    def _follow_spans(
        self, tokens: np.ndarray, states: np.ndarray, fits: np.ndarray, start: int, sentinels: list[int]
    ) -> None:
        """Fill in the states of the relocated spans from `start`, and in `fits` where a sentinel is out of order.

        `sentinels`: positions of those in the source.
        """
        v = self.vocabulary
        span_states = [
            State.IMAGE_SPAN if states[position] == State.MASKED_IMAGE else State.TEXT_SPAN for position in sentinels
        ]
        ends = (np.flatnonzero(tokens[start:] == v.eoss_id) + start + 1).tolist()
        row_end = v.pictures.row_end
        for index, (left, right) in enumerate(zip([start, *ends], [*ends, len(tokens)], strict=True)):
            if left == right:
                break
            states[left] = State.CLOSED
            if index >= len(span_states) or tokens[left] != v.sentinel_start + index:
                fits[left] = False
                break
            states[left + 1 : right] = span_states[index]
            if row_end is not None and span_states[index] == State.IMAGE_SPAN:
                states[left + 1 : right][tokens[left + 1 : right] == row_end] = State.FRAME


@dataclass
class Cursor:
    """Follows one sequence from left to right, after the ids that open it.

    Args:
        grid: shape of new images (None: the grammar's); images of a prompt may say another shape.
    """

    grammar: Grammar
    state: State = State.TEXT
    codes: int = 0  # image codes so far in the image, or relocated span of codes, that is open
    images: int = 0  # whole images so far
    spans: list[State] = field(default_factory=list)  # span state of each sentinel of the source, in order
    next_span: int = 0
    whole: dict[int, Grid] = field(default_factory=dict)  # shapes of the images that are relocated whole, by their span
    grid: Grid | None = None
    picture: PictureReader | None = None  # the image that is open
    masks: int = 0  # sentinels in the image that is open
    rest: np.ndarray | None = None  # what is to come of an image that is relocated whole

    @classmethod
    def after(cls, grammar: Grammar, ids: Sequence[int], grid: Grid | None = None) -> Cursor:
        """The cursor after `ids`, the beginning of a document.

        It knows of each image whether it is masked, as `Grammar.states` does.

        Raises:
            ValueError: the sequence breaks the grammar (the message names the position).
        """
        v, states, cursor = grammar.vocabulary, grammar.states(ids), cls(grammar, grid=grid)
        opening, close = v.opening_of(ids), v.close_of(ids)
        for place, (token, state) in enumerate(zip(ids, states, strict=True)):
            if place < opening or (v.ends_document(token) and place != close):
                continue  # the second: the end of an earlier turn
            if state is State.MASKED_IMAGE and cursor.state is State.IMAGE:
                cursor.enter_masked_image()
            cursor.feed(token)
        return cursor

    def copy(self) -> Cursor:
        """An independent cursor at the same place."""
        picture = self.picture.copy() if self.picture is not None else None
        return replace(self, spans=[*self.spans], whole={**self.whole}, picture=picture)

    def enter_masked_image(self) -> None:
        """Tell the cursor that the image it has just entered holds a sentinel."""
        assert self.state is State.IMAGE and self.codes == 0
        self.state = State.MASKED_IMAGE
        if self.picture is not None:
            self.picture.masked = True

    def is_allowed(self, token: int) -> bool:
        """Whether `token` may come next: by the grammar's table and the frame, and after the source in the order of
        the spans.
        """
        v = self.grammar.vocabulary
        if self.picture is not None and not v.is_sentinel(token):
            return self.picture.takes(token, v.is_image(token))
        if self.state is State.IMAGE_SPAN and token == v.pictures.row_end:
            return True
        if not (0 <= token < v.size and self.grammar._allowed[self.state, token]):
            return False
        if self.state is not State.CLOSED:
            return True
        return self.next_span < len(self.spans) and token == v.sentinel_id(self.next_span)

    def feed(self, token: int) -> State:
        """Take the next id and return the state of the one after it. Raises ValueError when it is not allowed."""
        v = self.grammar.vocabulary
        if not self.is_allowed(token):
            raise ValueError(f"{v.name(token)} may not come in state {self.state.name}")
        if self.state is State.CLOSED:
            self.state, grid = self.spans[self.next_span], self.whole.get(self.next_span)
            self.next_span += 1
            self.codes = 0
            self.rest = None if grid is None else np.append(v.pictures.rows(grid), v.eoss_id)
        elif self.state in (State.TEXT_SPAN, State.IMAGE_SPAN):
            if token == v.eoss_id:
                self.state = State.CLOSED
            self.codes += v.is_image(token)
            self.rest = None if self.rest is None else self.rest[1:]
        elif v.is_sentinel(token):
            self.spans.append(State.IMAGE_SPAN if self.state.is_image else State.TEXT_SPAN)
            self.masks += self.state.is_image
        elif v.ends_document(token):
            self._leave_picture()
            self.state = State.CLOSED
        elif self.state is State.IMAGE_END:
            self.state = State.TEXT
        elif self.picture is not None or token == v.open_id:
            self._feed_picture(token)
        return self.state

    def forced(self) -> list[int]:
        """The ids that must come next, without a choice; none where there is one.

        The ids of an image's frame and, after the source, the sentinel of the next span, the row ends of an
        image that is relocated whole and the ``<eoss>`` after it.

        Raises:
            ValueError: an image's opening has begun with another size than `grid`.
        """
        if self.picture is not None:
            return self.picture.forced()
        if self.state is State.CLOSED and self.next_span < len(self.spans):
            return [self.grammar.vocabulary.sentinel_id(self.next_span)]
        return up_to_code(self.rest) if self.state is State.IMAGE_SPAN and self.rest is not None else []

    @property
    def image_ids(self) -> int:
        """How many ids the open image has so far, its frame included; 0 outside of one."""
        return 0 if self.picture is None else len(self.picture.ids)

    @property
    def image_left(self) -> int:
        """How many ids the open image still has; 0 outside of one."""
        return 0 if self.picture is None else self.picture.left

    @property
    def image_length(self) -> int:
        """How many ids an image has that is begun next, its frame included."""
        return self.grammar.vocabulary.pictures.length(self.grid or self.grammar.grid)

    def _feed_picture(self, token: int) -> None:
        """As `feed`, for an id of an image or its frame."""
        v = self.grammar.vocabulary
        if self.picture is None:
            self.picture = PictureReader(v.pictures, self.grid or self.grammar.grid)
        else:
            self.picture.feed(token, v.is_image(token))
        self.codes = self.picture.codes
        match self.picture.next:
            case "code":
                self.state = State.MASKED_IMAGE if self.picture.masked else State.IMAGE
            case "end":
                self.state = State.TEXT if self.picture.masked or not v.pictures.separator else State.IMAGE_END
                self._leave_picture()
            case _:
                self.state = State.FRAME

    def _leave_picture(self) -> None:
        """Count the image that is open, if one is, and note whether it is relocated whole."""
        if self.picture is None:
            return
        self.images += not self.picture.masked
        if self.masks == 1 and not self.codes:
            self.whole[len(self.spans) - 1] = self.picture.grid
        self.picture, self.masks = None, 0
