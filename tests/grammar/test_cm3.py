"""CM3: masking, its undoing, and the distribution of spans against an independent simulation."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from jam import cm3
from jam.grammar import Grammar
from jam.vocabulary import Vocabulary

V = Vocabulary(text_size=50, image_size=30, eos_id=0, sentinels=8)
G = Grammar(V, (2, 3))
TEXT = [0, *range(1, 21), 0]
IMAGE = V.to_image_ids([3, 1, 4, 1, 5, 9])
CAPTION = [0, *range(1, 11), V.break_id, *IMAGE, 0]
LONG = [0, 5, 6, 7, V.break_id, *IMAGE, V.break_id, V.break_id, *IMAGE, V.break_id, *range(1, 30), 0]
IMAGE_FIRST = [0, V.break_id, *IMAGE, V.break_id, 8, 9, 0]
OPEN = LONG[:-1]
DOCUMENTS = {"text": TEXT, "caption": CAPTION, "long": LONG, "image first": IMAGE_FIRST, "open": OPEN}
DRAWS = 4000


def naive_spans(length: int, breaks: list[int], rng: random.Random, sentinels: int) -> list[tuple[int, int]]:
    """Rules 1 to 3 of docs/method.md, section 4, as they stand there; positions 0 .. length - 1 exclude both `</s>`."""
    draw, n = rng.random(), 0  # Poisson(1) by inversion
    while draw > (mass := sum(math.exp(-1) / math.factorial(k) for k in range(n + 1))) and mass < 1 - 1e-12:
        n += 1
    n = min(n, sentinels - 1)
    spans: list[tuple[int, int]] = []
    for _ in range(n * n):
        u, v = sorted((rng.random(), rng.random()))
        a, b = math.floor(u * length), int(v * length + 0.5)
        if len(spans) < n and not any(a < right and left < b for left, right in spans):
            spans.append((a, b))
    edges = [-1, *breaks, length]
    clipped = []
    for a, b in sorted(spans):
        best = (0, 0)
        for left, right in pairwise(edges):
            here = (max(a, left + 1), min(b, right))
            if here[1] - here[0] > best[1] - best[0]:
                best = here
        if best[1] > best[0]:
            clipped.append(best)
    return clipped


def statistics(spans: list[list[tuple[int, int]]], length: int) -> dict[str, np.ndarray]:
    """Means and standard errors of what must agree."""
    covered = np.zeros((len(spans), length))
    for row, drawn in enumerate(spans):
        for left, right in drawn:
            covered[row, left:right] = 1
    counts = np.array([len(drawn) for drawn in spans])
    values = {"unmasked": counts == 0, "one": counts == 1, "two": counts == 2, "more": counts > 2}
    values |= {"masked": covered.mean(1), "widest": [max([b - a for a, b in s], default=0) for s in spans]}
    rows = {name: np.asarray(value, dtype=float) for name, value in values.items()}
    rows |= {f"at {place}": covered[:, place] for place in range(0, length, max(1, length // 8))}
    return {name: np.array([row.mean(), row.std() / math.sqrt(len(row))]) for name, row in rows.items()}


@pytest.mark.parametrize("name", ["text", "caption", "long"])
def test_spans_have_the_stated_distribution(name):
    ids = DOCUMENTS[name]
    length = len(ids) - 2
    breaks = [place - 1 for place, token in enumerate(ids) if token == V.break_id]
    rng, plain = np.random.default_rng(1), random.Random(2)
    ours = [[(a - 1, b - 1) for a, b in cm3.draw_spans(ids, V, rng)] for _ in range(DRAWS)]
    theirs = [naive_spans(length, breaks, plain, V.sentinels) for _ in range(DRAWS)]
    first, second = statistics(ours, length), statistics(theirs, length)
    for key, (mean, error) in first.items():
        other, other_error = second[key]
        assert abs(mean - other) <= 4 * math.hypot(error, other_error) + 1e-9, (key, mean, other)


@pytest.mark.parametrize("length", [1, 2, 5, 20])
def test_share_of_unmasked_texts(length):
    """n = 0, or n = 1 and an empty draw, which has probability 1/(4 L): both ends in the first half of one token."""
    rng = np.random.default_rng(0)
    two_sentinels = Vocabulary(50, 30, 0, sentinels=2)  # n is 0 or 1
    ids = [0, *range(1, length + 1), 0]
    unmasked = np.mean([not cm3.draw_spans(ids, two_sentinels, rng) for _ in range(DRAWS)])
    expected = math.exp(-1) + (1 - math.exp(-1)) / (4 * length)
    assert abs(unmasked - expected) < 4 * math.sqrt(expected * (1 - expected) / DRAWS)


def test_captioned_pictures_of_the_papers_size():
    """docs/method.md, section 3: about 63 % of documents of 40 + 1024 tokens get a span in the image."""
    rng = np.random.default_rng(0)
    vocabulary = Vocabulary(1000, 8192, 0)
    ids = [0, *[7] * 40, vocabulary.break_id, *[vocabulary.image_start] * 1024, 0]
    drawn = [cm3.draw_spans(ids, vocabulary, rng) for _ in range(DRAWS)]
    assert abs(np.mean([any(left > 41 for left, _ in spans) for spans in drawn]) - 0.63) < 0.02
    assert np.mean([spans == [(1, 41)] for spans in drawn]) < 0.002  # hence `unconditional_rate`


@pytest.mark.parametrize("name", DOCUMENTS)
def test_masked_documents(name):
    """Undone, length, borders, order and grammar of whatever is drawn."""
    ids, rng = DOCUMENTS[name], np.random.default_rng(3)
    closed = ids if ids[-1] == V.eos_id else [*ids, V.eos_id]
    counts = Counter()
    for _ in range(1500):
        spans = cm3.draw_spans(ids, V, rng)
        masked = cm3.mask(ids, spans, V)
        counts[len(spans)] += 1
        G.states(masked)
        if not spans:
            assert masked == ids
            continue
        assert cm3.unmask(masked, V) == closed
        assert len(masked) == len(closed) + 3 * len(spans)
        assert all(left < right for left, right in spans)
        assert all(a[1] <= b[0] for a, b in pairwise(spans))
        assert not any({V.break_id, V.eos_id} & set(ids[left:right]) for left, right in spans)
        expected = [token for i, (a, b) in enumerate(spans) for token in (V.sentinel_id(i), *ids[a:b], V.eoss_id)]
        assert masked[-len(expected) :] == expected
    assert set(counts) >= {0, 1, 2, 3}


def test_spans_of_messages_lie_in_the_answer():
    rng = np.random.default_rng(0)
    for start in (3, 5, 13):
        spans = [span for _ in range(500) for span in cm3.draw_spans(LONG, V, rng, start)]
        assert min(left for left, _ in spans) == (start if LONG[start] != V.break_id else start + 1)


def test_sentinels_limit_the_spans():
    rng = np.random.default_rng(0)
    few = Vocabulary(50, 30, 0, sentinels=3)
    counts = Counter(len(cm3.draw_spans(TEXT, few, rng, poisson=6.0)) for _ in range(500))
    assert max(counts) == 2
    none = Vocabulary(50, 0, 0, sentinels=0)
    assert cm3.draw_spans(TEXT, none, rng) == []


def test_masking_the_whole_text():
    """The unconditional prompt of guidance, and nothing else, stands before the picture."""
    assert cm3.text_spans(CAPTION, V) == [(1, 11)]
    masked = cm3.mask(CAPTION, cm3.text_spans(CAPTION, V), V)
    assert masked[:3] == [0, V.sentinel_id(0), V.break_id]
    assert masked[3:] == [*IMAGE, 0, V.sentinel_id(0), *range(1, 11), V.eoss_id]
    assert cm3.text_spans(TEXT, V) == []
    assert cm3.text_spans([0, V.break_id, *IMAGE, 0], V) == []
    assert [LONG[left:right] for left, right in cm3.text_spans(LONG, V)] == [[5, 6, 7], list(range(1, 30))]


def test_trimming_cuts_text_of_the_source_only():
    masked = cm3.mask(CAPTION, [(2, 4), (13, 15)], V)
    for limit in range(len(masked) - 7, len(masked) + 2):
        places = cm3.trim(masked, limit, V)
        assert places is not None and len(places) == min(limit, len(masked))
        trimmed = [masked[place] for place in places]
        cut = len(masked) - len(trimmed)
        assert trimmed == [token for token in masked if token not in range(11 - cut, 11)]  # 10, 9, ... go
        G.states(trimmed)
    assert cm3.trim(masked, len(masked) - 8, V) is None  # 8 text ids are left in the source
    question = cm3.mask(TEXT, [(15, 17)], V)
    kept = [
        *range(14),
        V.sentinel_id(0),
        0,
        V.sentinel_id(0),
        15,
        16,
        V.eoss_id,
    ]  # 13 of the answer's six in the source
    places = cm3.trim(question, len(question) - 5, V, start=13)
    assert places is not None and [question[place] for place in places] == kept
    assert cm3.trim(question, len(question) - 6, V, start=13) is None


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([0, 3, V.sentinel_id(0), 0], "<sentinel:0> has no span"),
        ([0, V.sentinel_id(0), 0, V.sentinel_id(0), 3, V.eoss_id, V.sentinel_id(1), 3], "<sentinel:1> belongs to no"),
        ([0, V.sentinel_id(0)], "must be closed"),
    ],
)
def test_what_cannot_be_undone(ids, message):
    with pytest.raises(ValueError, match=message):
        cm3.unmask(ids, V)
