"""The grammar of mixed-modal sequences: what may come next (docs/method.md, section 3).

One object serves the loss (state of every target), the readout (which vocabulary is possible) and decoding (what may be
sampled), so that a broken stream can be neither trained nor produced. `<break>` toggles between text and image; an
image that begins a document, or follows another image, therefore stands behind an empty text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property

import numpy as np
import torch

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

    @property
    def is_image(self) -> bool:
        """Whether the image tower answers in this state; the text tower answers in the others."""
        return self in (State.IMAGE, State.MASKED_IMAGE, State.IMAGE_SPAN)


STATES = tuple(State)
IMAGE_STATES = torch.tensor([state.is_image for state in State])


@dataclass(frozen=True)
class Grammar:
    """The state machine over `vocabulary` for images of `image_tokens` codes each."""

    vocabulary: Vocabulary
    image_tokens: int

    def __post_init__(self) -> None:
        if self.vocabulary.image_size and self.image_tokens < 1:
            raise ValueError(f"grammar: an image must have at least one token; got {self.image_tokens}")

    def allowed(self) -> torch.Tensor:
        """Table of allowed ids, bool ``[states, vocabulary.size]``."""
        v = self.vocabulary
        table = torch.zeros(len(State), v.size, dtype=torch.bool, device="cpu")
        text, codes = slice(0, v.text_size), slice(v.image_start, v.control_start)
        sentinels = slice(v.sentinel_start, v.size)
        table[State.TEXT, text] = table[State.TEXT, sentinels] = True
        table[State.TEXT, v.break_id] = v.image_size > 0
        table[State.IMAGE, codes] = True
        table[State.IMAGE_END, [v.break_id, v.eos_id]] = True
        table[State.MASKED_IMAGE, codes] = table[State.MASKED_IMAGE, sentinels] = True
        table[State.MASKED_IMAGE, [v.break_id, v.eos_id]] = True
        table[State.CLOSED, sentinels] = True
        table[State.TEXT_SPAN, text] = True
        table[State.TEXT_SPAN, v.eos_id] = False
        table[State.IMAGE_SPAN, codes] = True
        table[[State.TEXT_SPAN, State.IMAGE_SPAN], v.eoss_id] = True
        for first, end in v.text_image_ids:
            table[:, first:end] = False
        return table

    @cached_property
    def _allowed(self) -> np.ndarray:
        return self.allowed().numpy()

    def states(self, ids: Sequence[int]) -> list[State]:
        """The state in which each id of one document was chosen; the first id (``</s>``) counts as TEXT.

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
        if not len(tokens) or tokens[0] != v.eos_id:
            raise ValueError("a document must begin with </s>")
        states = np.full(len(tokens), State.TEXT, dtype=np.int64)
        closes = np.flatnonzero(tokens[1:] == v.eos_id)
        source_end = int(closes[0]) + 2 if len(closes) else len(tokens)  # behind the closing </s>
        known = (tokens >= 0) & (tokens < v.size)
        is_sentinel = known & (tokens >= v.sentinel_start)
        breaks = np.flatnonzero(tokens[:source_end] == v.break_id).tolist()
        last = source_end - (1 if len(closes) else 0)
        for left, right in zip(breaks[::2], [*breaks[1::2], last], strict=False):  # images; `right` ends them
            first = left + 1
            if is_sentinel[first:right].any():
                states[first : right + 1] = State.MASKED_IMAGE
            else:
                full = first + self.image_tokens
                states[first : min(full, right + 1)] = State.IMAGE
                states[full : right + 1] = State.IMAGE_END
        in_order = self._follow_spans(tokens, states, source_end, np.flatnonzero(is_sentinel[:source_end]))
        fits = known & in_order & self._allowed[states, np.where(known, tokens, 0)]
        fits[0] = True
        if not fits.all():
            position = int(fits.argmin())
            token, state = int(tokens[position]), State(states[position])
            name = v.name(token) if known[position] else f"id {token}, outside this vocabulary of {v.size},"
            raise ValueError(f"position {position}: {name} may not come in state {state.name}")
        return states

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
        for index, (left, right) in enumerate(zip([start, *ends], [*ends, len(tokens)], strict=True)):
            if left == right:
                break
            states[left] = State.CLOSED
            if index >= len(span_states) or tokens[left] != v.sentinel_start + index:
                in_order[left] = False
                break
            states[left + 1 : right] = span_states[index]
        return in_order


@dataclass
class Cursor:
    """Follows one sequence from left to right, after its opening ``</s>``."""

    grammar: Grammar
    state: State = State.TEXT
    codes: int = 0  # image codes so far in the image, or relocated span of codes, that is open
    images: int = 0  # whole images so far
    spans: list[State] = field(default_factory=list)  # span state of each sentinel of the source, in order
    next_span: int = 0

    def enter_masked_image(self) -> None:
        """Tell the cursor that the image it has just entered holds a sentinel."""
        assert self.state is State.IMAGE and self.codes == 0
        self.state = State.MASKED_IMAGE

    def is_allowed(self, token: int) -> bool:
        """Whether `token` may come next: by the grammar's table, and behind the source in the order of the spans."""
        if not (0 <= token < self.grammar.vocabulary.size and self.grammar._allowed[self.state, token]):
            return False
        if self.state is not State.CLOSED:
            return True
        return self.next_span < len(self.spans) and token == self.grammar.vocabulary.sentinel_id(self.next_span)

    def feed(self, token: int) -> State:
        """Take the next id and return the state of the one after it. Raises ValueError when it is not allowed."""
        v = self.grammar.vocabulary
        if not self.is_allowed(token):
            raise ValueError(f"{v.name(token)} may not come in state {self.state.name}")
        if self.state is State.CLOSED:
            self.state = self.spans[self.next_span]
            self.next_span += 1
            self.codes = 0
        elif self.state in (State.TEXT_SPAN, State.IMAGE_SPAN):
            if token == v.eoss_id:
                self.state = State.CLOSED
            self.codes += v.is_image(token)
        elif v.is_sentinel(token):
            self.spans.append(State.IMAGE_SPAN if self.state.is_image else State.TEXT_SPAN)
        elif token == v.eos_id:
            self.state = State.CLOSED
        elif token == v.break_id:
            self.state = State.IMAGE if self.state is State.TEXT else State.TEXT
            self.codes = 0
        elif self.state is State.IMAGE:
            self.codes += 1
            if self.codes == self.grammar.image_tokens:
                self.state = State.IMAGE_END
                self.images += 1
        return self.state
