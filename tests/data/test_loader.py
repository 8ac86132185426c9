"""Shards, the loader and its resumption."""

from __future__ import annotations

import json
from itertools import islice

import numpy as np
import pytest
import torch

from jam.codec import Encoded
from jam.data import (
    PLAIN,
    TENSORS,
    Loader,
    Objective,
    Shards,
    Source,
    prepare,
)
from jam.data.loader import START
from jam.documents import Document, Image, Message, Text
from jam.vocabulary import Vocabulary
from support import tiny
from support.encoded import CAPTION, CONVERSATION, IMAGE, G, N, V, random_encoded, write_shards

# --- shards --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text_size", "dtype"), [(50, "uint16"), (2**16 - 40, "uint16"), (2**16 - 39, "uint32")])
def test_shards_are_read_back_from_the_map(tmp_path, text_size, dtype):
    vocabulary = Vocabulary(text_size, 30, 0, sentinels=8)
    assert (vocabulary.size <= 2**16) == (dtype == "uint16")
    shift = vocabulary.image_start - V.image_start
    rng = np.random.default_rng(0)
    documents = [
        Encoded.of([token + shift * (token >= V.image_start) for token in one.ids], vocabulary, one.main_start)
        for one in (random_encoded(rng) for _ in range(20))
    ]
    documents[0].ids[1] = text_size - 1
    summary = write_shards(tmp_path / "s", documents, vocabulary)
    shards = Shards(tmp_path / "s", vocabulary)
    assert isinstance(shards._ids, np.memmap) and shards._ids.dtype == dtype
    assert [shards[index] for index in range(len(shards))] == documents
    assert shards.lengths().tolist() == [len(one.ids) for one in documents]
    images = np.load(tmp_path / "s" / "images.npy")
    assert summary["tokens"] == sum(shards.lengths()) and summary["images"] == len(images)
    ids = np.concatenate([one.ids for one in documents])
    assert all(right - left == N for left, right in images)
    assert (
        sorted(i for a, b in images for i in range(a, b)) == np.flatnonzero([*map(vocabulary.is_image, ids)]).tolist()
    )


def test_the_first_documents_alone(tmp_path):
    rng = np.random.default_rng(0)
    documents = [random_encoded(rng) for _ in range(5)]
    write_shards(tmp_path / "s", documents)
    whole, first, more = (Shards(tmp_path / "s", V, most=most) for most in (None, 3, 9))
    assert [first[index] for index in range(len(first))] == documents[:3]
    assert first.lengths().tolist() == whole.lengths().tolist()[:3] and first.digest == whole.digest
    assert len(more) == len(whole) == 5


def test_neighbouring_pictures_are_two(tmp_path):
    summary = write_shards(tmp_path / "s", [Encoded.of([0, V.break_id, *IMAGE, V.break_id, V.break_id, *IMAGE, 0], V)])
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


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    """So that a few batches go through several."""
    monkeypatch.setattr("jam.data.loader.SEQUENCES_PER_WINDOW", 64)


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
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in TENSORS)


def taken(loader, count, place=START):
    """Micro-batches from a place on."""
    return [loader.batch(sequences) for sequences in loader.micro_batches(place, count)[0]]


def test_stream_is_a_function_of_seed_and_window(shards):
    first, second, other = (taken(make_loader(shards, seed=seed), 40) for seed in (0, 0, 1))
    assert all(same(a, b) for a, b in zip(first, second, strict=True))
    assert not all(same(a, b) for a, b in zip(first, other, strict=True))
    loader = make_loader(shards, batch_size=1)
    sequences = len(loader._packed(0))
    (late,) = taken(make_loader(shards, batch_size=1), 1, {"window": 1, "sequence": 0})
    assert same(late, taken(loader, sequences + 1)[-1])


def test_masks_are_drawn_anew_at_every_visit(tmp_path):
    """Of one document, in every window, and by another seed."""
    write_shards(tmp_path / "s", [CAPTION])
    loaders = [make_loader([Shards(tmp_path / "s", V)], seed=seed, weights=(1.0,)) for seed in (0, 1)]
    drawn = [
        tuple(sorted(tuple(loader._example(visit).inputs.tolist()) for row in loader._pack(window) for visit in row))
        for loader in loaders
        for window in range(4)
    ]
    assert len(set(drawn)) == 8 and all(len(set(visits)) > 20 for visits in drawn)


def test_resuming_anywhere_equals_going_on(shards):
    """In the middle of a window and where one ends."""
    steps = list(islice(make_loader(shards).steps(START, 2), 30))
    places = [START, *(json.loads(json.dumps(place)) for _, place in steps)]
    assert max(place["window"] for place in places) >= 2
    for number in range(0, 26, 4):
        resumed = islice(make_loader(shards).steps(places[number], 2), 4)
        for (batches, place), (others, there) in zip(steps[number : number + 4], resumed, strict=True):
            assert all(same(a, b) for a, b in zip(batches, others, strict=True)) and place == there


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
        write_shards(tmp_path / f"s{number}", [Encoded.of([0, *[number + 1] * length, 0], V)] * 20)
    shards = [Shards(tmp_path / f"s{number}", V) for number in range(2)]
    for weights in ((0.5, 0.5), (9.0, 1.0)):
        batches = taken(make_loader(shards, weights=weights, objective=PLAIN), 300)
        counts = [sum(int((batch.inputs == number).sum()) for batch in batches) for number in (1, 2)]
        # A document has two ids besides those counted.
        shares = np.array(counts) * (7 / 5, 57 / 55)
        assert shares[0] / shares.sum() == pytest.approx(weights[0] / sum(weights), abs=0.02)


def test_packing_wastes_little(shards):
    batches = taken(make_loader(shards, batch_size=1), 200)
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
    (named,) = Source(Shards(tmp_path / "s", V), 1.0, 11).named_left_out()
    reason = "a question of 11 ids leaves no room for its answer in a piece of 12; the context is 11"
    assert named == f"{tmp_path / 's'}, document 2: {reason}"
