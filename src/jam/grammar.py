"""The grammar of mixed-modal sequences: what may come next (REFERENCE section 3).

One object serves the loss (state of every target), the readout (which vocabulary is possible) and decoding (what may be
sampled), so that a broken stream can be neither trained nor produced. `<break>` toggles between text and image; an image
that begins a document, or follows another image, therefore stands behind an empty text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

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
        table = torch.zeros(len(State), v.size, dtype=torch.bool)
        text, codes, sentinels = slice(0, v.text_size), slice(v.image_start, v.control_start), slice(v.sentinel_start, v.size)
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
        return table

    def states(self, ids: Sequence[int]) -> list[State]:
        """The state in which each id of one whole document was chosen; the first id (``</s>``) counts as TEXT.

        Raises:
            ValueError: the sequence breaks the grammar (the message names the position).
        """
        v = self.vocabulary
        if not len(ids) or ids[0] != v.eos_id:
            raise ValueError("a document must begin with </s>")
        states = [State.TEXT]
        cursor = Cursor(self)
        segment_end = 0
        for position in range(1, len(ids)):
            token = int(ids[position])
            if cursor.state is State.IMAGE and position >= segment_end:
                segment_end = position
                while segment_end < len(ids) and ids[segment_end] not in (v.break_id, v.eos_id):
                    segment_end += 1
                if any(v.is_sentinel(int(other)) for other in ids[position:segment_end]):
                    cursor.enter_masked_image()
            states.append(cursor.state)
            try:
                cursor.feed(token)
            except ValueError as error:
                raise ValueError(f"position {position}: {error}") from None
        return states


@dataclass
class Cursor:
    """Follows one sequence from left to right, after its opening ``</s>``."""

    grammar: Grammar
    state: State = State.TEXT
    codes: int = 0  # image codes so far in the image that is open
    images: int = 0  # whole images so far
    spans: list[State] = field(default_factory=list)  # span state of each sentinel of the source, in order
    next_span: int = 0

    def enter_masked_image(self) -> None:
        """Tell the cursor that the image it has just entered holds a sentinel."""
        assert self.state is State.IMAGE and self.codes == 0
        self.state = State.MASKED_IMAGE

    def is_allowed(self, token: int) -> bool:
        v = self.grammar.vocabulary
        if self.state is State.CLOSED:
            return self.next_span < len(self.spans) and token == v.sentinel_id(self.next_span)
        match self.state:
            case State.TEXT:
                kinds = v.is_text(token) or token == v.eos_id or (token == v.break_id and v.image_size > 0)
                return kinds or v.is_sentinel(token)
            case State.IMAGE:
                return v.is_image(token)
            case State.IMAGE_END:
                return token in (v.break_id, v.eos_id)
            case State.MASKED_IMAGE:
                return v.is_image(token) or v.is_sentinel(token) or token in (v.break_id, v.eos_id)
            case State.TEXT_SPAN:
                return v.is_text(token) or token == v.eoss_id
            case _:
                return v.is_image(token) or token == v.eoss_id

    def feed(self, token: int) -> State:
        """Take the next id and return the state of the one after it. Raises ValueError when it is not allowed."""
        v = self.grammar.vocabulary
        if not self.is_allowed(token):
            raise ValueError(f"{v.name(token)} may not come in state {self.state.name}")
        if self.state is State.CLOSED:
            self.state = self.spans[self.next_span]
            self.next_span += 1
        elif self.state in (State.TEXT_SPAN, State.IMAGE_SPAN):
            if token == v.eoss_id:
                self.state = State.CLOSED
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

    @property
    def is_finished(self) -> bool:
        """Whether the sequence is complete: the source is closed and every span was given back."""
        return self.state is State.CLOSED and self.next_span == len(self.spans)
