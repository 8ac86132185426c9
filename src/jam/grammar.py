"""The grammar of mixed-modal sequences: what may come next (docs/method.md, section 3).

One object serves the loss (state of every target), the readout (which vocabulary is possible) and decoding (what may be
sampled), so that a broken stream can be neither trained nor produced. `<break>` toggles between text and image; an
image that begins a document, or follows another image, therefore stands behind an empty text. With a family's layout an
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
    FRAME = 7  # the frame of an image behind its first token: what it holds follows from the size, and is not learnt

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

    def rows(self, grid: Grid) -> np.ndarray:
        """What is relocated of an image that is masked whole (see `ImageLayout.rows`)."""
        layout = self.vocabulary.layout
        return np.full(self.image_tokens, CODE, dtype=np.int64) if layout is None else layout.rows(grid)

    def allowed(self) -> torch.Tensor:
        """Table of allowed ids, bool ``[states, vocabulary.size]``."""
        v = self.vocabulary
        table = torch.zeros(len(State), v.size, dtype=torch.bool, device="cpu")
        text, codes = slice(0, v.text_size), slice(v.image_start, v.control_start)
        sentinels = slice(v.sentinel_start, v.size)
        table[State.TEXT, text] = table[State.TEXT, sentinels] = True
        table[State.TEXT, v.break_id] = v.image_size > 0
        table[State.IMAGE, codes] = True
        table[State.IMAGE_END, [v.break_id, *v.end_ids]] = True
        table[State.MASKED_IMAGE, codes] = table[State.MASKED_IMAGE, sentinels] = True
        table[State.MASKED_IMAGE, [v.break_id, *v.end_ids]] = True
        table[State.CLOSED, sentinels] = True
        table[State.TEXT_SPAN, text] = True
        table[State.TEXT_SPAN, list(v.end_ids)] = False
        table[State.IMAGE_SPAN, codes] = True
        table[[State.TEXT_SPAN, State.IMAGE_SPAN], v.eoss_id] = True
        for first, end in v.text_image_ids:
            table[:, first:end] = False
        if v.layout is not None:
            table[:, v.break_id] = False
            table[State.MASKED_IMAGE, list(v.end_ids)] = False
            for state in (State.TEXT, State.TEXT_SPAN):
                table[state, list(v.layout.reserved)] = False
            table[State.TEXT_SPAN, v.layout.open_id] = False
            table[State.FRAME, sorted(v.layout.frame_ids)] = True
        return table

    @cached_property
    def _allowed(self) -> np.ndarray:
        return self.allowed().numpy()

    def states(self, ids: Sequence[int]) -> list[State]:
        """The state in which each id of one document was chosen; those that open it (`begin_ids`) count as TEXT.

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
        source_end = len(tokens) if close is None else close + 1  # behind the id that closes it
        known = (tokens >= 0) & (tokens < v.size)
        is_sentinel = known & (tokens >= v.sentinel_start)
        if v.layout is None:
            self._follow_breaks(tokens, states, is_sentinel, source_end, closed=close is not None)
            in_frame = np.ones(len(tokens), dtype=bool)
        else:
            in_frame = self._follow_frames(tokens, states, is_sentinel, source_end)
        in_order = self._follow_spans(tokens, states, source_end, np.flatnonzero(is_sentinel[:source_end]))
        fits = known & in_order & in_frame & self._allowed[states, np.where(known, tokens, 0)]
        fits[:opening] = True
        if not fits.all():
            position = int(fits.argmin())
            token, state = int(tokens[position]), State(states[position])
            name = v.name(token) if known[position] else f"id {token}, outside this vocabulary of {v.size},"
            raise ValueError(f"position {position}: {name} may not come in state {state.name}")
        return states

    def text_places(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Where a document without masks is text, the ids that open and close it included."""
        tokens = np.asarray(ids)
        is_text = tokens < self.vocabulary.text_size
        if self.vocabulary.layout is not None:
            for frame in self.vocabulary.layout.frames(tokens):
                is_text[frame.start : frame.end] = False
        return np.flatnonzero(is_text)

    def _follow_breaks(
        self, tokens: np.ndarray, states: np.ndarray, is_sentinel: np.ndarray, source_end: int, closed: bool
    ) -> None:
        """Fill in the states of the images between two `<break>`."""
        breaks = np.flatnonzero(tokens[:source_end] == self.vocabulary.break_id).tolist()
        last = source_end - closed
        for left, right in zip(breaks[::2], [*breaks[1::2], last], strict=False):  # images; `right` ends them
            first = left + 1
            if is_sentinel[first:right].any():
                states[first : right + 1] = State.MASKED_IMAGE
            else:
                full = first + self.image_tokens
                states[first : min(full, right + 1)] = State.IMAGE
                states[full : right + 1] = State.IMAGE_END

    def _follow_frames(
        self, tokens: np.ndarray, states: np.ndarray, is_sentinel: np.ndarray, source_end: int
    ) -> np.ndarray:
        """Fill in the states of the images that a layout frames; returns where their frames are as they must be, bool.

        A masked image's frame is known, but not where its rows end.
        """
        layout = self.vocabulary.layout
        assert layout is not None
        expected = np.full(len(tokens), CODE, dtype=np.int64)
        for frame in layout.frames(tokens[:source_end]):
            states[frame.start + 1 : frame.first] = State.FRAME
            if is_sentinel[frame.first : frame.close].any():
                first, body = frame.close, np.asarray(layout.closing)
                codes = slice(frame.first, frame.close)
                states[codes] = np.where(tokens[codes] == layout.row_end, State.FRAME, State.MASKED_IMAGE)
            else:
                first, body = frame.first, layout.body(frame.grid or self.grid)
            body = body[: source_end - first]
            states[first : first + len(body)] = np.where(body == CODE, State.IMAGE, State.FRAME)
            expected[first : first + len(body)] = body
        return (expected == CODE) | (expected == tokens)

    def _follow_spans(self, tokens: np.ndarray, states: np.ndarray, start: int, sentinels: np.ndarray) -> np.ndarray:
        """Fill in the states of the relocated spans from `start`; returns where sentinels keep their order, bool.

        `sentinels`: positions of those in the source.
        """
        v = self.vocabulary
        in_order = np.ones(len(tokens), dtype=bool)
        span_states = [
            State.IMAGE_SPAN if states[position] == State.MASKED_IMAGE else State.TEXT_SPAN for position in sentinels
        ]
        ends = (np.flatnonzero(tokens[start:] == v.eoss_id) + start + 1).tolist()
        row_end = v.layout.row_end if v.layout is not None else None
        for index, (left, right) in enumerate(zip([start, *ends], [*ends, len(tokens)], strict=True)):
            if left == right:
                break
            states[left] = State.CLOSED
            if index >= len(span_states) or tokens[left] != v.sentinel_start + index:
                in_order[left] = False
                break
            states[left + 1 : right] = span_states[index]
            if row_end is not None and span_states[index] == State.IMAGE_SPAN:
                states[left + 1 : right][tokens[left + 1 : right] == row_end] = State.FRAME
        return in_order


@dataclass
class Cursor:
    """Follows one sequence from left to right, behind the ids that open it.

    Args:
        grid: shape of the images that are to be begun (None: the grammar's); those that are read may say another one.
    """

    grammar: Grammar
    state: State = State.TEXT
    codes: int = 0  # image codes so far in the image, or relocated span of codes, that is open
    images: int = 0  # whole images so far
    spans: list[State] = field(default_factory=list)  # span state of each sentinel of the source, in order
    next_span: int = 0
    whole: dict[int, Grid] = field(default_factory=dict)  # shapes of the images that are relocated whole, by their span
    grid: Grid | None = None
    picture: PictureReader | None = None  # the image that is open, in a layout with frames
    masks: int = 0  # sentinels in the image that is open
    rest: np.ndarray | None = None  # what is to come of an image that is relocated whole

    @classmethod
    def after(cls, grammar: Grammar, ids: Sequence[int], grid: Grid | None = None) -> Cursor:
        """The cursor behind the `ids` of a document, from those that open it on.

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
        """Another cursor at this place, which goes on by itself."""
        picture = self.picture.copy() if self.picture is not None else None
        return replace(self, spans=[*self.spans], whole={**self.whole}, picture=picture)

    def enter_masked_image(self) -> None:
        """Tell the cursor that the image it has just entered holds a sentinel."""
        assert self.state is State.IMAGE and self.codes == 0
        self.state = State.MASKED_IMAGE
        if self.picture is not None:
            self.picture.masked = True

    def is_allowed(self, token: int) -> bool:
        """Whether `token` may come next: by the grammar's table and the frame, and behind the source in the order of
        the spans.
        """
        v = self.grammar.vocabulary
        if self.picture is not None and not v.is_sentinel(token):
            return self.picture.takes(token, v.is_image(token))
        if self.state is State.IMAGE_SPAN and v.layout is not None and token == v.layout.row_end:
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
            self.rest = None if grid is None else np.append(self.grammar.rows(grid), v.eoss_id)
        elif self.state in (State.TEXT_SPAN, State.IMAGE_SPAN):
            if token == v.eoss_id:
                self.state = State.CLOSED
            self.codes += v.is_image(token)
            self.rest = None if self.rest is None else self.rest[1:]
        elif v.is_sentinel(token):
            self.spans.append(State.IMAGE_SPAN if self.state.is_image else State.TEXT_SPAN)
            self.masks += self.state.is_image
        elif v.ends_document(token):
            self._leave_image(self.grammar.grid)
            self.state = State.CLOSED
        elif v.layout is not None:
            self._feed_frame(token)
        elif token == v.break_id:
            self._leave_image(self.grammar.grid)
            self.state = State.IMAGE if self.state is State.TEXT else State.TEXT
            self.codes = 0
        elif self.state.is_image:
            self.codes += 1
            if self.state is State.IMAGE and self.codes == self.grammar.image_tokens:
                self.state = State.IMAGE_END
                self.images += 1
        return self.state

    def forced(self) -> list[int]:
        """The ids that must come next, without a choice; none where there is one.

        They are those of an image's frame and, behind the source, the sentinel of the next span, the row ends of an
        image that is relocated whole and the ``<eoss>`` behind it.

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
        if self.picture is not None:
            return len(self.picture.ids)
        return self.codes + 1 if self.state is State.IMAGE else 0

    @property
    def image_left(self) -> int:
        """How many ids the open image still has; 0 outside of one."""
        if self.picture is not None:
            return self.picture.left
        return self.grammar.image_tokens - self.codes if self.state is State.IMAGE else 0

    @property
    def image_length(self) -> int:
        """How many ids an image has that is begun next, its frame included."""
        layout = self.grammar.vocabulary.layout
        return 1 + self.grammar.image_tokens if layout is None else layout.length(self.grid or self.grammar.grid)

    def _feed_frame(self, token: int) -> None:
        """As `feed`, for an id of text or of an image in a layout with frames."""
        v = self.grammar.vocabulary
        assert v.layout is not None
        if self.picture is None:
            if token != v.layout.open_id:
                return
            self.picture = PictureReader(v.layout, self.grid or self.grammar.grid)
        else:
            self.picture.feed(token, v.is_image(token))
        self.codes = self.picture.codes
        match self.picture.next:
            case "code":
                self.state = State.MASKED_IMAGE if self.picture.masked else State.IMAGE
            case "end":
                self.images += not self.picture.masked
                self._leave_image(self.picture.grid)
                self.picture, self.state = None, State.TEXT
            case _:
                self.state = State.FRAME

    def _leave_image(self, grid: Grid) -> None:
        """Note of an image that ends whether nothing of it but its frame is left."""
        if self.masks == 1 and not self.codes:
            self.whole[len(self.spans) - 1] = grid
        self.masks = 0
