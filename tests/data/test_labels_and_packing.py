"""From encoded documents to batches: labels, splitting, packing."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from jam import cm3
from jam.codec import Encoded
from jam.data import (
    PLAIN,
    Objective,
    assign,
    collate,
    make_example,
    split,
)
from jam.grammar import State
from jam.models.scoring import token_nll
from jam.training.forward import batch_hidden, select
from support import tiny
from support.encoded import CAPTION, CONVERSATION, IMAGE, G, V, random_encoded

# --- labels --------------------------------------------------------------------------------------------------------


def test_labels_of_a_plain_document():
    example = make_example(CAPTION, G, PLAIN, np.random.default_rng(0))
    assert example.inputs.tolist() == CAPTION.ids[:-1] and example.targets.tolist() == CAPTION.ids[1:]
    assert example.states.tolist() == G.states(CAPTION.ids)[1:]
    assert example.weights.tolist() == [1.0] * len(example)


def test_questions_are_not_learnt():
    example = make_example(CONVERSATION, G, PLAIN, np.random.default_rng(0))
    learnt = example.targets[example.weights > 0].tolist()
    assert learnt == CONVERSATION.ids[CONVERSATION.main_start :]


def test_weights_of_masked_documents():
    """Forced sentinels 0, sentinels of the source by the option, image tokens by theirs, all others 1."""
    objective = Objective(sentinel_weight=0.25, image_weight=0.5, unconditional_rate=0.3)
    rng = np.random.default_rng(0)
    seen = Counter()
    for _ in range(300):
        document = random_encoded(rng)
        example = make_example(document, G, objective, rng)
        ids = [*example.inputs.tolist(), int(example.targets[-1])]
        assert cm3.unmask(ids, V) == document.ids
        for place, (target, state, weight) in enumerate(
            zip(example.targets.tolist(), example.states.tolist(), example.weights.tolist(), strict=True)
        ):
            if place < document.main_start - 1 or state == State.CLOSED:
                expected = 0.0
            elif V.is_sentinel(target):
                expected = 0.25
            else:
                expected = 0.5 if V.is_image(target) else 1.0
            assert weight == expected
            seen[expected] += 1
        question = document.ids[: document.main_start]
        assert ids[: len(question)] == question  # spans lie in the answer
    assert min(seen[weight] for weight in (0.0, 0.25, 0.5, 1.0)) > 50


def test_unconditional_rate_masks_exactly_the_whole_text():
    rng = np.random.default_rng(0)
    whole = [0, V.sentinel_id(0), V.break_id, *IMAGE, 0, V.sentinel_id(0), 5, 6, 7, 8, V.eoss_id]
    always = Objective(cm3=False, unconditional_rate=1.0)
    example = make_example(CAPTION, G, always, rng)
    assert [*example.inputs.tolist(), int(example.targets[-1])] == whole
    text = Encoded.of([0, 5, 6, 0], V)
    assert make_example(text, G, always, rng).inputs.tolist() == [0, 5, 6]
    assert make_example(CONVERSATION, G, always, rng).inputs.tolist() == CONVERSATION.ids[:-1]
    often = Objective(cm3=True, unconditional_rate=0.2)
    masked = [make_example(CAPTION, G, often, rng).inputs.tolist() == whole[:-1] for _ in range(2000)]
    by_chance = Objective(cm3=True, unconditional_rate=0.0)
    chance = [make_example(CAPTION, G, by_chance, rng).inputs.tolist() == whole[:-1] for _ in range(2000)]
    expected = 0.2 + 0.8 * np.mean(chance)
    assert abs(np.mean(masked) - expected) < 0.03


@pytest.mark.parametrize("is_open", [False, True])
def test_limit_trims_the_source(is_open):
    """At the limit a text makes room for sentinels."""
    ids = [0, *range(1, 31)] + ([] if is_open else [0])
    rng = np.random.default_rng(0)
    lengths = set()
    for _ in range(200):
        example = make_example(Encoded.of(ids, V), G, Objective(), rng, limit=len(ids) - 1)
        lengths.add(len(example))
        masked = [*example.inputs.tolist(), int(example.targets[-1])]
        if masked == ids:
            assert example.weights.min() == 1.0
            continue
        document = cm3.unmask(masked, V)
        assert document[:-1] == sorted(document[:-1]) and set(document) <= set(ids)
        count = int((example.states == State.CLOSED).sum())
        assert len(document) == len(ids) - 3 * count
    assert lengths == {len(ids) - 1}


@pytest.mark.parametrize("is_open", [False, True])
def test_what_stands_behind_a_cut_is_not_learnt(is_open):
    """A caption that was cut must not teach `<break>` in mid-sentence; all else weighs what it does uncut."""
    ids = [0, *range(1, 12), V.break_id, *IMAGE, V.break_id, 12, 13, V.break_id, *IMAGE] + ([] if is_open else [0])
    behind = Counter()
    for seed in range(300):
        whole, short = (
            make_example(Encoded.of(ids, V), G, Objective(), np.random.default_rng(seed), limit)
            for limit in (None, len(ids))
        )
        if not (short.targets >= V.sentinel_start).any():
            continue  # left whole
        place = 0
        for target, weight in zip(short.targets, short.weights, strict=True):
            before = place
            while whole.targets[place] != target:
                place += 1
            assert weight == (0.0 if place > before else whole.weights[place])
            behind[int(target)] += place > before
            place += 1
    assert behind[V.break_id] > 10 and behind[V.sentinel_id(0)] > 10


# --- splitting -----------------------------------------------------------------------------------------------------


def joined(pieces, vocabulary):
    """Bodies of pieces behind one another, with `<break>` where a picture ended."""
    start = pieces[0].main_start
    ids = list(pieces[0].ids)
    for piece in pieces[1:]:
        body = piece.ids[start:]
        ids += [vocabulary.break_id] * (vocabulary.is_image(ids[-1]) and body != [0]) + body
    return ids


def test_pieces_join_back_to_the_document():
    rng = np.random.default_rng(0)
    counts = Counter()
    for _ in range(500):
        document = random_encoded(rng, most=8)
        limit = int(rng.integers(12, 60))
        pieces = split(document, limit, V)
        counts[len(pieces)] += 1
        assert joined(pieces, V) == document.ids
        for number, piece in enumerate(pieces):
            assert len(piece.ids) <= limit
            assert piece.ids[: document.main_start] == document.ids[: document.main_start]
            assert piece.main_start == document.main_start
            assert (piece.ids[-1] == 0) == (number == len(pieces) - 1)
            assert len(piece.ids) > piece.main_start
            make_example(piece, G, Objective(), rng, limit - 1)  # obeys the grammar: no image was cut
    assert min(counts[n] for n in (1, 2, 3, 4)) > 10


def test_texts_stay_with_their_pictures():
    ids = [0, 1, 2, V.break_id, *IMAGE, V.break_id, 3, 4, 5, V.break_id, *IMAGE, 0]
    pieces = split(Encoded.of(ids, V), 14, V)
    assert [piece.ids for piece in pieces] == [[0, 1, 2, V.break_id, *IMAGE], [0, 3, 4, 5, V.break_id, *IMAGE, 0]]


def test_long_texts_are_cut_between_tokens():
    pieces = split(Encoded.of([0, *range(1, 26), 0], V), 10, V)
    assert [piece.ids for piece in pieces] == [[0, *range(1, 9)], [0, *range(9, 17)], [0, *range(17, 25)], [0, 25, 0]]


def test_what_cannot_be_split():
    with pytest.raises(ValueError, match=r"an image of 4 tokens after a question of 1 ids does not fit .* of 5"):
        split(CAPTION, 5, V)
    with pytest.raises(ValueError, match="a question of 11 ids leaves no room for its answer in a piece of 12"):
        split(CONVERSATION, 12, V)


# --- packing -------------------------------------------------------------------------------------------------------


def test_packed_loss_equals_the_loss_of_single_documents():
    """Every target has the same nll in a packed batch as alone; so no document sees another."""
    rng = np.random.default_rng(0)
    codec = tiny.codec()
    for kind in ("cross", "single"):
        model = tiny.network(kind, codec.vocabulary).eval()
        objective = Objective(unconditional_rate=0.2)
        documents = [codec.encode(tiny.random_document(rng)) for _ in range(40)]
        examples = [make_example(d, codec.grammar, objective, rng) for d in documents if len(d.ids) < 50]
        bins = assign([len(example) for example in examples], 64)
        assert max(len(part) for part in bins) > 1
        packed = collate([[examples[index] for index in part] for part in bins], 64)
        alone = [collate([[examples[index]]], len(examples[index])) for part in bins for index in part]
        with torch.no_grad():
            hidden, targets, states, weights = select(packed, batch_hidden(model, packed))
            together = token_nll(model, hidden, targets, states)
            single = []
            for batch in alone:
                plain = model.hidden(batch.inputs)  # no mask, no positions: an ordinary causal forward
                hidden, targets, states, _ = select(batch, plain)
                single.append(token_nll(model, hidden, targets, states))
        torch.testing.assert_close(together, torch.cat(single), rtol=1e-5, atol=1e-5)
        assert weights.sum() == sum(example.weights.sum() for example in examples)


def test_padding_changes_nothing():
    examples = [make_example(CAPTION, G, PLAIN, np.random.default_rng(0))]
    batch = collate([examples], 32)
    assert (
        batch.documents[0, len(CAPTION.ids) - 1 :].eq(-1).all() and batch.weights[0, len(CAPTION.ids) - 1 :].eq(0).all()
    )
    mask = batch.packed.dense()
    assert mask.any(-1).all() and not mask[0, 0, 5, 6:].any() and not mask[0, 0, 20, :10].any()


def test_assignment_is_tight_and_whole():
    rng = np.random.default_rng(0)
    lengths = rng.integers(20, 300, 500).tolist()
    bins = assign(lengths, 512)
    assert sorted(index for part in bins for index in part) == list(range(500))
    assert all(sum(lengths[index] for index in part) <= 512 for part in bins)
    waste = 1 - sum(lengths) / (512 * len(bins))
    assert waste < 0.02
    assert assign([512, 512], 512) == [[0], [1]]
