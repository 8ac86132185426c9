"""The joint vocabulary: disjoint ranges and a bijection each way."""

from __future__ import annotations

import pytest

from jam.vocabulary import ParentRows, Vocabulary

V = Vocabulary(text_size=10, image_size=6, eos_id=2, sentinels=3)


def test_ranges_are_disjoint_and_cover_everything():
    for token in range(V.size):
        kinds = [V.is_text(token), V.is_image(token), V.is_sentinel(token)]
        kinds += [token == V.eos_id, token == V.break_id, token == V.eoss_id]
        assert sum(kinds) == 1, V.name(token)
    assert V.size == 10 + 6 + 2 + 3
    assert len({V.name(token) for token in range(V.size)}) == V.size


@pytest.mark.parametrize("token", [-1, V.size])
def test_ids_outside_are_nothing(token):
    assert not (V.is_text(token) or V.is_image(token) or V.is_sentinel(token))
    with pytest.raises(ValueError, match="outside this vocabulary of 21"):
        V.name(token)


def test_codes_and_ids_are_a_bijection():
    codes = list(range(V.image_size))
    ids = V.to_image_ids(codes)
    assert ids == list(range(V.image_start, V.control_start))
    assert V.to_codes(ids) == codes
    for code in (-1, V.image_size):
        with pytest.raises(ValueError, match=r"outside 0\.\.5"):
            V.to_image_ids([code])
    for token in (V.image_start - 1, V.control_start):
        with pytest.raises(ValueError, match=r"those are 10\.\.15"):
            V.to_codes([token])


def test_sentinels_are_counted():
    assert [V.sentinel_id(index) for index in range(3)] == [V.size - 3, V.size - 2, V.size - 1]
    with pytest.raises(ValueError, match="this vocabulary has 3"):
        V.sentinel_id(3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((10, -1, 2), "image_size is -1"),
        ((10, 6, 10), "eos_id 10 is outside the text ids"),
        ((10, 6, 2, 0), "at least one sentinel"),
    ],
)
def test_impossible_vocabularies_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary(*values)


def test_hash_tells_vocabularies_apart():
    assert Vocabulary.from_dict(V.to_dict()) == V
    assert Vocabulary.from_dict(V.to_dict()).hash == V.hash
    others = [Vocabulary(11, 6, 2, 3), Vocabulary(10, 7, 2, 3), Vocabulary(10, 6, 1, 3), Vocabulary(10, 6, 2, 4)]
    assert len({V.hash, *(other.hash for other in others)}) == 5


def test_rows_of_a_parent():
    text = ParentRows(10).row_of(V)
    assert text == [*range(10), *[-1] * 11]
    image = ParentRows(10, image_start=12, control_start=18, control_size=3).row_of(V)
    assert image == [*range(10), *range(12, 18), 18, 19, 20, -1, -1]
    with pytest.raises(ValueError, match="used twice"):
        ParentRows(10, image_start=8).row_of(V)
