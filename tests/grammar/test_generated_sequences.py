"""Any sequence of ids, in every layout: states by segments are those of the cursor; masking is undone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jam import cm3
from jam.grammar import Cursor, Grammar, State
from jam.layout import Frame, Grid, PictureLayout
from jam.vocabulary import Vocabulary
from support import generated, layouts
from support.generated import followed


class Rows(PictureLayout):
    """``6 7 code code 8 code code 8``, with ``5`` before more text: a layout that no family has."""

    name, closing, row_end, unit, reserved = "rows", (), 8, 1, (5, 7, 8)
    begin_ids, open_id, separator, closers, frame_ids = (0,), 6, (5,), (5, 0), frozenset((7, 8))

    def write_opening(self, grid: Grid) -> list[int]:
        return [6, 7]

    def read_opening(self, ids: Sequence[int]) -> tuple[int, Grid | None] | None:
        if tuple(ids[:2]) not in ((6,), (6, 7)):
            raise ValueError("no opening of a picture")
        return (2, None) if len(ids) > 1 else None

    def frames(self, ids: Sequence[int] | np.ndarray) -> list[Frame]:
        tokens, found, end = [int(token) for token in ids], [], 0
        while 6 in tokens[end:]:
            start = tokens.index(6, end)
            first = start + (self.read_opening(tokens[start:]) or (1,))[0]
            close = next((place for place in range(first, len(tokens)) if tokens[place] in self.closers), len(tokens))
            end = close + (tokens[close : close + 1] == [5])
            found.append(Frame(start, first, close - (tokens[close - 1] == 8), close, end, None))
        return found


class RowsVocabulary(Vocabulary):
    @cached_property
    def pictures(self) -> PictureLayout:
        return Rows()


PAPER = Grammar(Vocabulary(text_size=8, image_size=6, eos_id=0, sentinels=4), (2, 2))
ROWS = Grammar(RowsVocabulary(text_size=16, image_size=6, eos_id=0, sentinels=4), (2, 3))
GRAMMARS = {"paper": PAPER, "rows": ROWS} | {
    family: layouts.codec(family, (2, 4)).grammar for family in layouts.LAYOUTS
}
every_layout = pytest.mark.parametrize("name", GRAMMARS)


def outcome(call: Callable[..., Any], *given: Any) -> Any:
    try:
        return call(*given)
    except ValueError as error:
        return str(error)


@settings(generated.FEW, max_examples=60)
@given(st.data())
@every_layout
def test_states_are_those_of_the_cursor(name: str, data: st.DataObject) -> None:
    """Of documents that are masked, cut, and changed in one id: the same states, or the same message.

    In a masked image the cursor does not know the frame; of a broken frame the messages differ.
    """
    grammar = GRAMMARS[name]
    v = grammar.vocabulary
    ids, opening = data.draw(generated.masked(grammar)), len(v.begin_ids)
    ids = ids[: data.draw(st.integers(opening, len(ids)), "length")]
    if len(ids) > opening and data.draw(st.booleans(), "changed"):
        other = st.integers(0, v.size - 1) | st.integers(v.control_start, v.size - 1)
        ids[data.draw(st.integers(opening, len(ids) - 1))] = data.draw(other)
    found, expected = outcome(grammar.states, ids), outcome(followed, grammar, ids)
    if not v.pictures.frame_ids or isinstance(expected, str):
        assert found == expected or (v.pictures.frame_ids and isinstance(found, str))
        return
    for one, other in zip(found, expected, strict=True):
        assert one is other or (one is State.FRAME and other in (State.MASKED_IMAGE, State.IMAGE_SPAN))


@generated.FEW
@given(st.data())
@every_layout
def test_a_copy_goes_on_by_itself(name: str, data: st.DataObject) -> None:
    """A cursor behind any part of a document stays where it is while its copy reads the rest, and gets as far."""
    grammar = GRAMMARS[name]
    ids = data.draw(generated.sequences(grammar))
    cut = data.draw(st.integers(len(grammar.vocabulary.begin_ids), len(ids)), "cut")
    cursor = Cursor.after(grammar, ids[:cut])
    copy, before = cursor.copy(), standing(cursor)
    for token in ids[cut:]:
        copy.feed(token)
    assert standing(cursor) == before == standing(Cursor.after(grammar, ids[:cut]))
    assert standing(copy) == standing(Cursor.after(grammar, ids)) and copy.state is State.CLOSED


@generated.FEW
@given(st.data())
@every_layout
def test_behind_the_source_what_is_forced_is_what_stands_there(name: str, data: st.DataObject) -> None:
    """The sentinel of the next span and, of an image that is relocated whole, all but its codes; nothing else is.

    Copies read on, and know of every span what a cursor does that has read all of it.
    """
    grammar = GRAMMARS[name]
    v = grammar.vocabulary
    ids = data.draw(generated.sequences(grammar))
    runs = cm3.segments(ids, v)[: v.sentinels]
    spans = runs if data.draw(st.booleans(), "whole") else data.draw(generated.spans(ids, grammar))
    whole = {number for number, span in enumerate(spans) if span in runs and v.is_image(ids[span[0]])}
    masked = cm3.mask(ids, spans, v)
    start = len(masked) - sum(2 + right - left for left, right in spans)
    cursor = Cursor.after(grammar, masked[:start])
    assert set(cursor.whole) == whole
    for place in range(start, len(masked)):
        assert standing(cursor) == standing(Cursor.after(grammar, masked[:place]))
        forced, is_code = cursor.forced(), v.is_image(masked[place])
        assert masked[place : place + len(forced)] == forced
        assert bool(forced) == (cursor.state is State.CLOSED or (cursor.next_span - 1 in whole and not is_code))
        cursor = cursor.copy()
        cursor.feed(masked[place])
    assert cursor.forced() == [] and cursor.next_span == len(spans)


def standing(cursor: Cursor) -> tuple[Any, ...]:
    """All that tells where a cursor is; within the opening of an image of another size there is an error instead."""
    counts = (cursor.codes, cursor.images, cursor.image_ids, cursor.next_span)
    return cursor.state, *counts, [*cursor.spans], {**cursor.whole}, outcome(cursor.forced)


@generated.FEW
@given(st.data())
@every_layout
def test_places_of_text_are_those_where_the_cursor_is_in_text(name: str, data: st.DataObject) -> None:
    """`Grammar.places_outside_pictures` counts what opens and closes a document, `cm3.text_places` does not."""
    grammar = GRAMMARS[name]
    v = grammar.vocabulary
    ids = data.draw(generated.sequences(grammar))
    choices = [
        place
        for place, (token, state) in enumerate(zip(ids, followed(grammar, ids), strict=True))
        if state in (State.TEXT, State.IMAGE_END) and token not in (v.open_id, *v.pictures.separator)
    ]
    assert grammar.places_outside_pictures(ids).tolist() == choices
    assert cm3.text_places(ids, v).tolist() == [place for place in choices if v.is_text(ids[place])]


@generated.FEW
@given(st.data())
@every_layout
def test_masking_is_undone(name: str, data: st.DataObject) -> None:
    """Of whole documents and of pieces that nothing closes."""
    grammar = GRAMMARS[name]
    v = grammar.vocabulary
    whole = data.draw(generated.sequences(grammar))
    ids = whole[: len(whole) - data.draw(st.booleans(), "open")]
    spans = data.draw(generated.spans(ids, grammar))
    masked = cm3.mask(ids, spans, v)
    assert cm3.unmask(masked, v) == (whole if spans else ids)
    assert len(masked) == len(whole if spans else ids) + 3 * len(spans)
    states = grammar.states(masked)
    assert states.count(State.CLOSED) == len(spans)
