"""From documents to batches: labels, splitting, packing, shards, the loader and its resumption."""

from __future__ import annotations

import json
import time
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import tiny
import torch

from jam import cm3
from jam.codec import Encoded
from jam.data import (
    PLAIN,
    Loader,
    Objective,
    Shards,
    ShardWriter,
    Source,
    assign,
    collate,
    make_example,
    prepare,
    split,
)
from jam.documents import Document, Image, Message, Text
from jam.grammar import Grammar, State
from jam.models.scoring import token_nll
from jam.training.trainer import batch_hidden, select
from jam.vocabulary import Vocabulary

V = Vocabulary(text_size=50, image_size=30, eos_id=0, sentinels=8)
N = 4
G = Grammar(V, N)
IMAGE = V.to_image_ids([3, 1, 4, 1])
CAPTION = Encoded([0, 5, 6, 7, 8, V.break_id, *IMAGE, 0])
CONVERSATION = Encoded([0, 5, 6, 7, V.break_id, *IMAGE, V.break_id, 9, 20, 21, 22, V.break_id, *IMAGE, 0], 11)


def random_encoded(rng: np.random.Generator, most: int = 4) -> Encoded:
    """Texts and pictures; half of them with a question."""
    ids = [0, *rng.integers(1, 50, 3)]
    start = len(ids) if rng.random() < 0.5 else 1
    for number in range(int(rng.integers(1, most + 1))):
        text = rng.integers(1, 50, rng.integers(0 if number else 1, 9))
        ids += [*text, V.break_id, *rng.integers(V.image_start, V.control_start, N), V.break_id]
    return Encoded([int(token) for token in [*ids[:-1], 0]], start)


def write_shards(folder, documents, vocabulary=V):
    folder.mkdir()
    with ShardWriter(folder, vocabulary) as writer:
        for document in documents:
            writer.add(document)
    return writer.finish()


# --- labels --------------------------------------------------------------------------------------------------------


def test_labels_of_a_plain_document():
    example = make_example(CAPTION, G, PLAIN, np.random.default_rng(0))
    assert example.inputs.tolist() == CAPTION.ids[:-1] and example.targets.tolist() == CAPTION.ids[1:]
    assert example.states.tolist() == G.states(CAPTION.ids)[1:]
    assert example.weights.tolist() == [1.0] * len(example)


def test_questions_are_not_learnt():
    example = make_example(CONVERSATION, G, PLAIN, np.random.default_rng(0))
    learnt = example.targets[example.weights > 0].tolist()
    assert learnt == CONVERSATION.ids[CONVERSATION.answer_start :]


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
            if place < document.answer_start - 1 or state == State.CLOSED:
                expected = 0.0
            elif V.is_sentinel(target):
                expected = 0.25
            else:
                expected = 0.5 if V.is_image(target) else 1.0
            assert weight == expected
            seen[expected] += 1
        question = document.ids[: document.answer_start]
        assert ids[: len(question)] == question  # spans lie in the answer
    assert min(seen[weight] for weight in (0.0, 0.25, 0.5, 1.0)) > 50


def test_unconditional_rate_masks_exactly_the_whole_text():
    rng = np.random.default_rng(0)
    whole = [0, V.sentinel_id(0), V.break_id, *IMAGE, 0, V.sentinel_id(0), 5, 6, 7, 8, V.eoss_id]
    always = Objective(cm3=False, unconditional_rate=1.0)
    example = make_example(CAPTION, G, always, rng)
    assert [*example.inputs.tolist(), int(example.targets[-1])] == whole
    text = Encoded([0, 5, 6, 0])
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
        example = make_example(Encoded(ids), G, Objective(), rng, limit=len(ids) - 1)
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
            make_example(Encoded(ids), G, Objective(), np.random.default_rng(seed), limit) for limit in (None, len(ids))
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


def test_examples_are_fast():
    large = Grammar(Vocabulary(5000, 1000, 0), 64)
    ids = [0, *([7] * 9 + [large.vocabulary.break_id] + [5500] * 64 + [large.vocabulary.break_id]) * 4, 7, 0]
    rng = np.random.default_rng(0)
    best = 1.0
    for _ in range(100):
        started = time.perf_counter()
        make_example(Encoded(ids), large, Objective(), rng, 512)
        best = min(best, time.perf_counter() - started)
    assert best < 1e-3


# --- splitting -----------------------------------------------------------------------------------------------------


def joined(pieces, vocabulary):
    """Bodies of pieces behind one another, with `<break>` where a picture ended."""
    start = pieces[0].answer_start
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
            assert piece.ids[: document.answer_start] == document.ids[: document.answer_start]
            assert piece.answer_start == document.answer_start
            assert (piece.ids[-1] == 0) == (number == len(pieces) - 1)
            assert len(piece.ids) > piece.answer_start
            make_example(piece, G, Objective(), rng, limit - 1)  # obeys the grammar: no image was cut
    assert min(counts[n] for n in (1, 2, 3, 4)) > 10


def test_texts_stay_with_their_pictures():
    ids = [0, 1, 2, V.break_id, *IMAGE, V.break_id, 3, 4, 5, V.break_id, *IMAGE, 0]
    pieces = split(Encoded(ids), 14, V)
    assert [piece.ids for piece in pieces] == [[0, 1, 2, V.break_id, *IMAGE], [0, 3, 4, 5, V.break_id, *IMAGE, 0]]


def test_long_texts_are_cut_between_tokens():
    pieces = split(Encoded([0, *range(1, 26), 0]), 10, V)
    assert [piece.ids for piece in pieces] == [[0, *range(1, 9)], [0, *range(9, 17)], [0, *range(17, 25)], [0, 25, 0]]


def test_what_cannot_be_split():
    with pytest.raises(ValueError, match=r"an image of 4 tokens behind a question of 1 ids does not fit .* of 5"):
        split(CAPTION, 5, V)
    with pytest.raises(ValueError, match="a question of 11 ids leaves no room for its answer in a context of 12"):
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
    mask = batch.attention_mask()
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


# --- shards --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text_size", "dtype"), [(50, "uint16"), (2**16 - 40, "uint16"), (2**16 - 39, "uint32")])
def test_shards_are_read_back_from_the_map(tmp_path, text_size, dtype):
    vocabulary = Vocabulary(text_size, 30, 0, sentinels=8)
    assert (vocabulary.size <= 2**16) == (dtype == "uint16")
    shift = vocabulary.image_start - V.image_start
    rng = np.random.default_rng(0)
    documents = [
        Encoded([token + shift * (token >= V.image_start) for token in one.ids], one.answer_start)
        for one in (random_encoded(rng) for _ in range(20))
    ]
    documents[0].ids[1] = text_size - 1
    summary = write_shards(tmp_path / "s", documents, vocabulary)
    shards = Shards(tmp_path / "s", vocabulary)
    assert isinstance(shards._ids, np.memmap) and shards._ids.dtype == dtype
    assert [shards[index] for index in range(len(shards))] == documents
    assert shards.lengths().tolist() == [len(one.ids) for one in documents]
    assert summary["tokens"] == sum(shards.lengths()) and summary["images"] == len(shards.images)
    ids = np.concatenate([one.ids for one in documents])
    assert all(right - left == N for left, right in shards.images)
    assert (
        sorted(i for a, b in shards.images for i in range(a, b))
        == np.flatnonzero([*map(vocabulary.is_image, ids)]).tolist()
    )


def test_neighbouring_pictures_are_two(tmp_path):
    summary = write_shards(tmp_path / "s", [Encoded([0, V.break_id, *IMAGE, V.break_id, V.break_id, *IMAGE, 0])])
    assert summary["images"] == 2


def test_shards_that_cannot_be_used(tmp_path):
    with pytest.raises(ValueError, match="no token shards here; make them with `jam prepare"):
        Shards(tmp_path, V)
    write_shards(tmp_path / "s", [CAPTION, CONVERSATION])
    other = Vocabulary(51, 30, 0, sentinels=8)
    with pytest.raises(ValueError, match=f"prepared for vocabulary {V.hash}, the model has {other.hash}"):
        Shards(tmp_path / "s", other)
    with pytest.raises(ValueError, match=r"with the fingerprint None, the model's have ab: .* run `jam prepare` again"):
        Shards(tmp_path / "s", V, "ab")  # nobody said what encoded them
    ids = (tmp_path / "s" / "ids.bin").read_bytes()
    (tmp_path / "s" / "ids.bin").write_bytes(ids[:-2])
    with pytest.raises(ValueError, match=f"has {len(ids) - 2} bytes, its offsets ask for {len(ids)}"):
        Shards(tmp_path / "s", V)
    for name in ("ids.bin", "answers.npy"):
        (tmp_path / "s" / name).unlink()
        with pytest.raises(ValueError, match="incomplete"):
            Shards(tmp_path / "s", V)
    write_shards(tmp_path / "none", [])
    with pytest.raises(ValueError, match="hold no documents"):
        Shards(tmp_path / "none", V)


def test_prepare(tmp_path):
    codec = tiny.codec(tiny.image_tokenizer(tmp_path / "it"))
    documents = [Document([Text(f"number {i}"), Image(pixels=tiny.picture(i))]) for i in range(70)]
    documents.append(Document(messages=[Message("user", [Text("q")]), Message("assistant", [Text("a")])]))
    *progress, summary = prepare(documents, codec, tmp_path / "out")
    assert [one["documents"] for one in progress] == list(range(1, 72)) and summary["images"] == 70
    shards = Shards(tmp_path / "out", codec.vocabulary, codec.fingerprint)
    assert [shards[index] for index in range(71)] == [codec.encode(document) for document in documents]
    with pytest.raises(ValueError, match="exists; choose another --out"):
        list(prepare(documents, codec, tmp_path / "out"))


def test_failed_preparation_leaves_nothing(tmp_path):
    codec = tiny.codec(tiny.image_tokenizer(tmp_path / "it"))
    lost = Document([Text("a"), Image(path="none.png", where="docs.jsonl:2: ")])
    with pytest.raises(ValueError, match=r"docs\.jsonl:2: picture none\.png does not exist"):
        list(prepare([Document([Text("a")]), lost], codec, tmp_path / "out"))
    with pytest.raises(ValueError, match="no documents to prepare"):
        list(prepare([], codec, tmp_path / "out"))
    next(iter(prepare([Document([Text("a")])], codec, tmp_path / "out")))  # given up at once
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


# --- loader --------------------------------------------------------------------------------------------------------


@pytest.fixture
def shards(tmp_path):
    rng = np.random.default_rng(0)
    for number, count in enumerate((150, 40)):
        documents = [random_encoded(rng) for _ in range(count)]
        if number:
            documents += [random_encoded(rng, most=30) for _ in range(5)]  # longer than the context
        write_shards(tmp_path / f"s{number}", documents)
    return [Shards(tmp_path / f"s{number}", V) for number in range(2)]


def make_loader(shards, seed=0, batch_size=3, weights=(3.0, 1.0), objective=None):
    sources = [Source(one, weight, 64) for one, weight in zip(shards, weights, strict=True)]
    return Loader(sources, G, 64, batch_size, objective or Objective(), seed)


def same(first, second):
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in first.__dataclass_fields__)


def test_stream_is_a_function_of_seed_and_window(shards):
    first, second, other = make_loader(shards), make_loader(shards), make_loader(shards, seed=1)
    batches = list(islice(first, 40))
    assert all(same(a, b) for a, b in zip(batches, islice(second, 40), strict=True))
    assert not all(same(a, b) for a, b in zip(batches, islice(other, 40), strict=True))
    again = make_loader(shards)
    again.load_state({"window": 1, "sequence": 0})
    late = make_loader(shards)
    while late.window < 1:
        next(late)
    state = late.state()
    again.load_state(state)
    assert same(next(again), next(late))


def test_masks_are_drawn_anew_at_every_visit(tmp_path):
    """Of one document, in every window, and by another seed."""
    write_shards(tmp_path / "s", [CAPTION])
    loaders = [make_loader([Shards(tmp_path / "s", V)], seed=seed, weights=(1.0,)) for seed in (0, 1)]
    drawn = [
        tuple(sorted(tuple(example.inputs.tolist()) for sequence in loader._pack(window) for example in sequence))
        for loader in loaders
        for window in range(4)
    ]
    assert len(set(drawn)) == 8 and all(len(set(visits)) > 20 for visits in drawn)


def test_resuming_anywhere_equals_going_on(shards):
    """In the middle of a window and where one ends."""
    loader = make_loader(shards)
    states, batches = [], []
    for _ in range(60):
        states.append(json.loads(json.dumps(loader.state())))
        batches.append(next(loader))
    assert max(state["window"] for state in states) >= 2
    for place in range(0, 55, 7):
        resumed = make_loader(shards)
        next(resumed)
        resumed.load_state(states[place])
        assert all(same(a, b) for a, b in zip(batches[place : place + 5], resumed, strict=False))


def test_every_piece_is_visited_once_an_epoch_and_shares_hold(shards):
    loader = make_loader(shards)
    windows = 40
    visits = [visit for window in range(windows) for visit in loader.documents_of(window)]
    for number, source in enumerate(loader.sources):
        pieces = [piece for where, piece in visits if where == number]
        for epoch in range(len(pieces) // len(source)):
            assert sorted(pieces[epoch * len(source) : (epoch + 1) * len(source)]) == list(range(len(source)))
        tokens = sum(len(source[piece].ids) for piece in pieces) / sum(len(loader.sources[w][p].ids) for w, p in visits)
        assert tokens == pytest.approx((0.75, 0.25)[number], abs=0.02)
    assert len(loader.sources[1]) > 45  # long documents come as pieces
    order = [[piece for where, piece in visits if where == 0][start:][:150] for start in (0, 150)]
    assert order[0] != order[1]


def test_weights_are_shares_of_tokens(tmp_path):
    """In the batches, of two sources whose documents have 7 and 57 ids."""
    for number, length in enumerate((5, 55)):
        write_shards(tmp_path / f"s{number}", [Encoded([0, *[number + 1] * length, 0])] * 20)
    shards = [Shards(tmp_path / f"s{number}", V) for number in range(2)]
    for weights in ((0.5, 0.5), (9.0, 1.0)):
        batches = list(islice(make_loader(shards, weights=weights, objective=PLAIN), 300))
        counts = [sum(int((batch.inputs == number).sum()) for batch in batches) for number in (1, 2)]
        # A document has two ids besides those counted.
        shares = np.array(counts) * (7 / 5, 57 / 55)
        assert shares[0] / shares.sum() == pytest.approx(weights[0] / sum(weights), abs=0.02)


def test_packing_wastes_little(shards):
    loader = make_loader(shards, batch_size=1)
    batches = list(islice(loader, 200))
    used = np.mean([(batch.documents >= 0).float().mean() for batch in batches])
    assert used > 0.93  # of positions, in sequences of about three documents


def test_sequences_of_an_epoch(shards):
    """The estimate that the first window gives holds for the windows that follow."""
    loader = make_loader(shards)
    sequences = sum(len(loader._pack(window)) for window in range(1, 9)) / (8 * loader.window_size)
    assert loader.sequences_per_epoch() == pytest.approx(sequences * 150 / loader.visit_shares[0], rel=0.05)


def test_weights_must_be_positive(shards):
    with pytest.raises(ValueError, match=r"must be positive; got \[1.0, 0.0\]"):
        make_loader(shards, weights=(1.0, 0.0))


def test_documents_that_do_not_fit_are_named(tmp_path):
    write_shards(tmp_path / "s", [CAPTION, CONVERSATION])
    with pytest.raises(
        ValueError, match=r"s, document 2: a question of 11 ids .* in a context of 12; train on a longer"
    ):
        Source(Shards(tmp_path / "s", V), 1.0, 11)
