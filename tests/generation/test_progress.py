"""What a request may write, and how far it is, without a model: limits, rules, forced ids, copies."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jam.generation import GenerationSettings, Request
from jam.generation.limits import Limits
from jam.generation.progress import Progress
from jam.generation.request import read_prompt
from jam.grammar import Grammar, State
from support import layouts, tiny

CONTEXT = 60
VOCABULARIES = {"paper": tiny.codec().vocabulary} | {name: layouts.vocabulary(name) for name in ("chameleon", "emu3")}
EACH = pytest.mark.parametrize("name", VOCABULARIES)


def begun(name: str, context: int = CONTEXT, **settings: Any) -> Progress:
    v = VOCABULARIES[name]
    request = Request([*v.begin_ids, 5, 6], GenerationSettings(**settings))
    cursor = read_prompt(request, Grammar(v, tiny.GRID))
    return Progress(request, cursor, Limits.of(request, cursor, context, context, can_read=True))


def write(progress: Progress, draw: Any) -> int:
    """The next id: what must come, or any of those that may."""
    forced = progress.cursor.forced()
    must, closed = progress.rules()
    if forced or must is not None:
        return forced[0] if forced else must  # type: ignore[return-value]
    v, allowed = progress.grammar.vocabulary, progress.grammar.allowed()[progress.state].clone()
    allowed[v.sentinel_start :] = False
    allowed[closed] = False
    choices = allowed.nonzero()[:, 0].tolist()
    return draw(st.sampled_from([*choices[:3], *choices[-3:]]))


def facts(progress: Progress) -> tuple[Any, ...]:
    cursor = progress.cursor
    place = cursor.state, cursor.codes, cursor.images, cursor.image_left, cursor.forced()
    return (*place, progress.new_ids[:], progress.images, progress.remaining, set(progress.seen), progress.rules())


@EACH
@given(data=st.data())
def test_any_document_that_follows_the_rules_keeps_its_promises(name: str, data: st.DataObject) -> None:
    """Whatever is chosen: the budget is kept, pictures are whole, and as many as were asked for."""
    least = data.draw(st.integers(0, 2))
    most = data.draw(st.sampled_from([None, least, least + 1]))
    progress = begun(name, min_images=least, max_images=most)
    assert progress.remaining == progress.limits.budget == CONTEXT - len(progress.request.prompt)
    while (reason := progress.end() if progress.new_ids else None) is None:
        progress.feed(write(progress, data.draw))
    assert reason == ("end" if progress.grammar.vocabulary.ends_document(progress.new_ids[-1]) else "context")
    assert least <= progress.images and (most is None or progress.images <= most)
    assert progress.state in (State.TEXT, State.IMAGE_END, State.CLOSED)  # within no picture
    states = progress.grammar.states(progress.ids)
    assert states.count(State.IMAGE) == progress.images * tiny.IMAGE_TOKENS


@EACH
@given(data=st.data())
def test_a_copy_goes_its_own_way(name: str, data: st.DataObject) -> None:
    progress = begun(name, min_images=1)
    for _ in range(data.draw(st.integers(0, 12))):
        if progress.new_ids and progress.end() is not None:
            break
        progress.feed(write(progress, data.draw))
    before, other = facts(progress), progress.copy()
    assert facts(other) == before
    while not other.new_ids or other.end() is None:
        other.feed(write(other, data.draw))
        assert facts(progress) == before != facts(other)


@EACH
def test_limits_say_what_a_request_takes(name: str) -> None:
    plain, guided = begun(name, max_new_tokens=30).limits, begun(name, 400, guidance_scale=2.0).limits
    assert (plain.budget, plain.spent, plain.slots, plain.unconditional) == (30, "max_new_tokens", 1, None)
    pictures = VOCABULARIES[name].pictures
    assert (guided.spent, guided.slots, guided.unconditional) == ("context", 2, pictures.unconditional)
    assert guided.image_cost == pictures.length(tiny.GRID) + 1
    assert guided.slot_length == 400 and plain.slot_length == len(begun(name).request.prompt) + 30
    assert begun(name, guidance_scale=2.0, max_images=0).limits.slots == 1  # nothing will be guided


def test_a_sentence_end_is_asked_for_only_where_a_picture_is_due() -> None:
    asked: list[int] = []
    progress = begun("paper", min_images=1)
    spare = progress.remaining - progress.limits.image_cost
    while progress.rules(lambda: bool(asked.append(len(progress.new_ids))))[0] is None:
        progress.feed(7)
    assert len(progress.new_ids) == spare and asked[0] == max(0, spare - 31)
    ready = begun("paper", min_images=1)
    assert ready.rules(lambda: True)[0] == (ready.grammar.vocabulary.open_id if asked[0] == 0 else None)
