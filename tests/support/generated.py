"""Documents and sequences of ids for `hypothesis`, which makes a case that fails as small as it can."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from jam import cm3
from jam.documents import Document, Image, Message, Part, Text
from jam.grammar import Cursor, Grammar, State

FEW = settings(max_examples=30, deadline=None, derandomize=True)


@st.composite
def sequences(draw: st.DrawFn, grammar: Grammar) -> list[int]:
    """The ids of a whole document of some texts and pictures, in any layout."""
    v = grammar.vocabulary
    layout = v.pictures
    kept = {*layout.begin_ids, layout.open_id, *layout.frame_ids, *layout.reserved}
    words = st.sampled_from([token for token in range(v.text_size) if v.is_text(token) and token not in kept])
    code = st.integers(v.image_start, v.control_start - 1)
    ids = [*v.begin_ids]
    for number in range(draw(st.integers(0, 4))):
        if number % 2 == 0:
            ids += [*(layout.separator if number else ()), *draw(st.lists(words, max_size=5))]
        else:
            height, width = grid = draw(grids(grammar))
            ids += layout.write(draw(st.lists(code, min_size=height * width, max_size=height * width)), grid)
    return [*ids, v.eos_id]


def grids(grammar: Grammar) -> st.SearchStrategy[tuple[int, int]]:
    """Shapes of pictures: the grammar's, and small ones where the layout says them."""
    layout, own = grammar.vocabulary.pictures, st.just(grammar.grid)
    if not layout.writes_size:
        return own
    side = st.integers(1, 3).map(lambda number: number * layout.unit)
    return own | st.tuples(side, side)


@st.composite
def spans(draw: st.DrawFn, ids: list[int], grammar: Grammar) -> list[cm3.Span]:
    """What may be masked of a document: parts of its texts and of its pictures, in order."""
    found = []
    for left, right in cm3.segments(ids, grammar.vocabulary):
        while len(found) < grammar.vocabulary.sentinels and left < right and draw(st.booleans()):
            start = draw(st.integers(left, right - 1))
            end = draw(st.integers(start + 1, right))
            found.append((start, end))
            left = end
    return found


@st.composite
def masked(draw: st.DrawFn, grammar: Grammar) -> list[int]:
    """A whole document with some of it relocated behind its end."""
    ids = draw(sequences(grammar))
    return cm3.mask(ids, draw(spans(ids, grammar)), grammar.vocabulary)


def followed(grammar: Grammar, ids: list[int]) -> list[State]:
    """States by the cursor, id by id; an image that holds a sentinel is announced to it."""
    v = grammar.vocabulary
    ends = v.pictures.closers
    opening = v.opening_of(ids)
    states, cursor = [State.TEXT] * opening, Cursor(grammar)
    for position, token in enumerate(ids[opening:], start=opening):
        if cursor.state is State.IMAGE and cursor.codes == 0:
            end = next((place for place in range(position, len(ids)) if ids[place] in ends), len(ids))
            if any(map(v.is_sentinel, ids[position:end])):
                cursor.enter_masked_image()
        states.append(cursor.state)
        try:
            cursor.feed(token)
        except ValueError as error:
            raise ValueError(f"position {position}: {error}") from None
    return states


def documents(grid: tuple[int, int], codes: int, questions: int) -> st.SearchStrategy[Document]:
    """Content, or a conversation of some questions; texts of any characters."""
    size = grid[0] * grid[1]
    drawn = st.lists(st.integers(0, codes - 1), min_size=size, max_size=size).map(lambda made: Image(codes=made))
    texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).map(Text)
    parts = st.lists(texts | drawn, min_size=1, max_size=5).map(_joined)
    turns = st.lists(st.tuples(parts, parts), min_size=1, max_size=questions)
    return parts.map(Document) | turns.map(_conversation)


def _joined(parts: list[Part]) -> list[Part]:
    """Neighbouring texts are one."""
    found: list[Any] = []
    for part in parts:
        if isinstance(part, Text) and found and isinstance(found[-1], Text):
            found[-1] = Text(found[-1].text + part.text)
        else:
            found.append(part)
    return found


def _conversation(turns: list[tuple[list[Part], list[Part]]]) -> Document:
    messages = [Message(role, said) for turn in turns for role, said in zip(("user", "assistant"), turn, strict=True)]
    return Document(messages=messages)
