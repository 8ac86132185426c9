"""The state machine: states of targets, what may come next, and its messages."""

from __future__ import annotations

import numpy as np
import pytest

from jam.grammar import Cursor, Grammar, State
from jam.vocabulary import Vocabulary
from support.generated import followed

V = Vocabulary(text_size=8, image_size=6, eos_id=0, sentinels=4)
G = Grammar(V, (2, 2))
EOS, BREAK, EOSS, CODE = V.eos_id, V.break_id, V.eoss_id, V.image_start
S = V.sentinel_id
IMAGE = [CODE, CODE + 1, CODE + 2, CODE + 5]
T, I, E, M, C, TS, IS, F = State  # noqa: E741


CASES = {
    "text": ([EOS, 3, 4, EOS], [T, T, T, T]),
    "caption": ([EOS, 3, BREAK, *IMAGE, EOS], [T, T, T, I, I, I, I, E]),
    "unfinished": ([EOS, 3, BREAK, *IMAGE[:2]], [T, T, T, I, I]),
    "image first, then another": (
        [EOS, BREAK, *IMAGE, BREAK, BREAK, *IMAGE, BREAK, 5, EOS],
        [T, T, I, I, I, I, E, T, I, I, I, I, E, T, T],
    ),
    "text span": ([EOS, 3, S(0), 5, EOS, S(0), 4, 4, EOSS], [T, T, T, T, T, C, TS, TS, TS]),
    "whole text masked": (
        [EOS, S(0), BREAK, *IMAGE, EOS, S(0), 3, EOSS],
        [T, T, T, I, I, I, I, E, C, TS, TS],
    ),
    "masked image": (
        [EOS, 3, BREAK, CODE, S(0), CODE, BREAK, 4, EOS, S(0), CODE, CODE, EOSS],
        [T, T, T, M, M, M, M, T, T, C, IS, IS, IS],
    ),
    "image masked whole, beside an unmasked one and masked text": (
        [EOS, S(0), BREAK, S(1), BREAK, BREAK, *IMAGE, EOS, S(0), 3, EOSS, S(1), *IMAGE, EOSS],
        [T, T, T, M, M, T, I, I, I, I, E, C, TS, TS, C, IS, IS, IS, IS, IS],
    ),
    "two spans in one image": (
        [EOS, BREAK, S(0), CODE, S(1), EOS, S(0), CODE, EOSS, S(1), CODE, CODE, EOSS],
        [T, T, M, M, M, M, C, IS, IS, C, IS, IS, IS],
    ),
    "instruct prompt": ([EOS, 3, S(0), EOS], [T, T, T, T]),
}


@pytest.mark.parametrize("name", CASES)
def test_states(name):
    ids, states = CASES[name]
    assert G.states(ids) == states == followed(G, ids)
    assert G.state_array(np.array(ids)).tolist() == states


BROKEN = {
    "no beginning": ([3, 4], "must begin with </s>"),
    "nothing": ([], "must begin with </s>"),
    "code in text": ([EOS, 3, CODE], "position 2: <image:0> may not come in state TEXT"),
    "short image": ([EOS, BREAK, *IMAGE[:3], BREAK], "position 5: <break> may not come in state IMAGE"),
    "cut image": ([EOS, BREAK, *IMAGE[:2], EOS], "position 4: </s> may not come in state IMAGE"),
    "long image": ([EOS, BREAK, *IMAGE, CODE], "position 6: <image:0> may not come in state IMAGE_END"),
    "sentinel behind an image": ([EOS, BREAK, S(0), 3], "position 3: <text:3> may not come in state MASKED_IMAGE"),
    "span of the other modality": (
        [EOS, S(0), EOS, S(0), CODE],
        "position 4: <image:0> may not come in state TEXT_SPAN",
    ),
    "span without sentinel": ([EOS, 3, EOS, S(0)], "position 3: <sentinel:0> may not come in state CLOSED"),
    "spans out of order": ([EOS, S(0), S(1), EOS, S(1)], "position 4: <sentinel:1> may not come in state CLOSED"),
    "text behind the end": ([EOS, 3, EOS, 3], "position 3: <text:3> may not come in state CLOSED"),
    "span ends before it begins": ([EOS, S(0), EOS, EOSS], "position 3: <eoss> may not come in state CLOSED"),
    "eoss in the source": ([EOS, EOSS], "position 1: <eoss> may not come in state TEXT"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_sequences_name_the_position(name):
    ids, message = BROKEN[name]
    with pytest.raises(ValueError) as caught:
        G.states(ids)
    assert message in str(caught.value)


def test_ids_outside_the_vocabulary():
    with pytest.raises(ValueError, match="position 2: id 99, outside this vocabulary of 20"):
        G.states([EOS, 3, 99])


TEXT_IDS, CODES, SENTINELS = set(range(1, 8)), set(range(8, 14)), set(range(16, 20))
ALLOWED = {
    T: TEXT_IDS | SENTINELS | {EOS, BREAK},
    I: CODES,
    E: {EOS, BREAK},
    M: CODES | SENTINELS | {EOS, BREAK},
    C: SENTINELS,
    TS: TEXT_IDS | {EOSS},
    IS: CODES | {EOSS},
}


@pytest.mark.parametrize("state", [state for state in State if state is not F])
def test_what_is_allowed_in_each_state(state):
    assert set(G.allowed()[state].nonzero()[:, 0].tolist()) == ALLOWED[state]
    cursor = Cursor(G, state=state, spans=[TS] * 2, next_span=1)
    expected = ALLOWED[state] if state is not C else {S(1)}  # spans come back in order
    assert {token for token in range(-V.size, 2 * V.size) if cursor.is_allowed(token)} == expected
    cursor.next_span = 2
    assert state is not C or not any(cursor.is_allowed(token) for token in range(V.size))


def test_a_model_without_images_writes_no_break():
    grammar = Grammar(Vocabulary(8, 0, 0, sentinels=0))
    assert grammar.states([0, 3, 4, 0]) == [T] * 4
    with pytest.raises(ValueError, match="<break> may not come in state TEXT"):
        grammar.states([0, grammar.vocabulary.break_id])
    with pytest.raises(ValueError, match="at least one token"):
        Grammar(V)


def test_cursor_counts_images_and_ends():
    cursor = Cursor(G)
    for token in [BREAK, *IMAGE, BREAK, BREAK, *IMAGE]:
        cursor.feed(token)
    assert (cursor.images, cursor.state, cursor.next_span) == (2, E, 0)
    cursor.feed(EOS)
    assert cursor.state is C
