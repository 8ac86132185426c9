"""Every turn of a conversation learnt, and documents in front of another: whose ids they are, and what they weigh."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from jam.codec import Codec, Encoded
from jam.data import (
    PLAIN,
    Loader,
    Objective,
    Shards,
    Source,
    draw_spans,
    label,
    make_example,
    prepare,
    split,
)
from jam.data.loader import START
from jam.documents import Document, Image, Message, Part, Text
from jam.files import FileError
from jam.grammar import State
from support import tiny
from support.encoded import CAPTION, CONVERSATION, write_shards
from support.resealed import reseal_shards

PICTURE = Image(codes=[1, 2, 3, 4])
ANSWERS: list[list[Part]] = [
    [Text("a red house"), PICTURE],
    [PICTURE, Text("How do I draw it?")],
    [Text("First draw trees, 雨 and trees."), PICTURE, Text("Then, 2 trees — très verts, 雨, and a red house.")],
]
WITHOUT_MASKS = Objective(cm3=False, unconditional_rate=0.0, image_weight=0.5)


def conversation(count: int = 3, system: bool = False) -> Document:
    messages = [Message("system", [Text("draw")])] if system else []
    for number in range(count):
        messages += [Message("user", [Text(f"draw {number}")]), Message("assistant", ANSWERS[number % len(ANSWERS)])]
    return Document(messages=messages)


def caption(text: str) -> Document:
    return Document(content=[Text(text), PICTURE])


def shards_of(folder: Path, documents: list[Document], learn_turns: str = "all") -> tuple[Shards, Codec]:
    codec = tiny.codec()
    if not folder.is_dir():
        list(prepare(documents, codec, folder))
    return Shards(folder, codec.vocabulary, learn_turns=learn_turns), codec


def parts_of(codec: Codec, ids: list[int]) -> list[object]:
    content = codec.decode([*codec.vocabulary.begin_ids, *ids]).content
    return [part.text if isinstance(part, Text) else part.codes for part in content]  # type: ignore[union-attr]


def learnt(encoded: Encoded, codec: Codec, objective: Objective = PLAIN) -> list[int]:
    example = make_example(encoded, codec.grammar, objective, np.random.default_rng(0))
    return example.targets[example.weights > 0].tolist()


# --- turns of a conversation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", [False, True])
def test_answers_before_the_last_are_found(system):
    codec = tiny.codec()
    encoded = codec.encode(conversation(system=system))
    found = [encoded.ids[left:right] for left, right in encoded.earlier_answers()]
    assert [parts_of(codec, ids) for ids in found] == [
        [part.text if isinstance(part, Text) else part.codes for part in answer] for answer in ANSWERS[:2]
    ]
    assert encoded.is_asked and not codec.encode(caption("a")).is_asked
    assert encoded.weights().tolist() == [float(place >= encoded.main_start) for place in range(len(encoded.ids))]


@pytest.mark.parametrize("learn_turns", ["last", "all"])
def test_the_answers_that_are_chosen_are_learnt(tmp_path, learn_turns):
    shards, codec = shards_of(
        tmp_path / "s", [caption("a"), conversation(), conversation(1), conversation(2)], learn_turns
    )
    for number in range(len(shards)):
        encoded = shards[number]
        earlier = [token for left, right in encoded.earlier_answers() for token in encoded.ids[left:right]]
        assert len(encoded.earlier_answers()) == (0, 2, 0, 1)[number]
        main = encoded.ids[encoded.main_start :]
        assert learnt(encoded, codec) == (earlier + main if learn_turns == "all" else main)
        example = make_example(encoded, codec.grammar, WITHOUT_MASKS, np.random.default_rng(0))
        is_image = np.array([codec.vocabulary.is_image(token) for token in example.targets])
        assert example.weights.tolist() == (encoded.weights()[1:] * np.where(is_image, 0.5, 1.0)).tolist()


def test_masks_stay_in_the_last_answer_and_the_others_weigh_the_same(tmp_path):
    shards, codec = shards_of(tmp_path / "s", [conversation()])
    encoded, rng = shards[0], np.random.default_rng(0)
    before = encoded.weights()[1 : encoded.main_start]
    assert 0 < before.sum() < len(before)
    masked = 0
    for _ in range(100):
        spans = draw_spans(encoded, codec.vocabulary, Objective(unconditional_rate=1.0, part_rate=0.3), rng)
        assert all(left >= encoded.main_start for left, _ in spans)
        example = label(encoded, spans, codec.grammar, PLAIN, len(encoded.ids) + 2)
        assert example.weights[: len(before)].tolist() == before.tolist()
        masked += bool(spans)
    assert masked > 40


def test_an_earlier_answer_of_a_long_conversation_is_learnt_in_its_first_piece(tmp_path):
    shards, codec = shards_of(tmp_path / "s", [conversation()])
    encoded = shards[0]
    pieces = split(encoded, encoded.main_start + 14, codec.vocabulary)
    assert len(pieces) > 2
    earlier = [token for left, right in encoded.earlier_answers() for token in encoded.ids[left:right]]
    assert learnt(pieces[0], codec)[: len(earlier)] == earlier
    for piece in pieces:
        assert piece.ids[: encoded.main_start] == encoded.ids[: encoded.main_start]
        assert len(learnt(piece, codec)) == len(piece.ids) - piece.main_start + len(earlier) * (piece is pieces[0])


def test_sequences_hold_every_answer_once_an_epoch(tmp_path):
    documents = [conversation(1 + number % 3) for number in range(12)]
    shards, codec = shards_of(tmp_path / "s", documents)
    source = Source(shards, 1.0, 80)
    assert len(source) > len(shards)
    loader = Loader([source], codec.grammar, 80, 1, Objective(cm3=False, unconditional_rate=0.0), 0)
    visits = loader.documents_of(0)
    times = [visits.count((0, piece)) for piece in range(len(source))]
    expected = sum(count * source[piece].weights()[1:].sum() for piece, count in enumerate(times))
    batches = [loader.batch(rows) for rows in loader.micro_batches(START, len(loader._packed(0)))[0]]
    assert sum(float(batch.weights.sum()) for batch in batches) == expected
    pieces, whole = [source[number] for number in range(len(source))], [shards[number] for number in range(len(shards))]
    for each in (pieces, whole):  # a `<break>` between two pieces is left out
        each[:] = [one.weights()[np.array(one.ids) != codec.vocabulary.break_id].sum() for one in each]
    assert sum(pieces) == sum(whole)


# --- on the disk -----------------------------------------------------------------------------------------------------


def test_the_file_of_turns_is_there_where_there_are_some(tmp_path):
    write_shards(tmp_path / "without", [CAPTION, CONVERSATION])
    summary = json.loads((tmp_path / "without" / "shards.json").read_text())
    assert not (tmp_path / "without" / "turns.npy").exists() and "turns" not in summary
    shards_of(tmp_path / "with", [conversation(1), conversation()])
    summary = json.loads((tmp_path / "with" / "shards.json").read_text())
    assert summary["turns"] == 2 and "turns.npy" in summary["checksums"]


def test_turns_that_are_lost_or_changed_are_named(tmp_path):
    documents = [conversation(1), conversation()]
    shards, codec = shards_of(tmp_path / "s", documents)
    path, digest = tmp_path / "s" / "turns.npy", shards.digest
    turns = np.load(path)
    np.save(path, turns + 1)
    with pytest.raises(FileError, match=r"turns.npy is not as it was written"):
        Shards(tmp_path / "s", codec.vocabulary)
    for wrong in (turns[::-1], turns - turns.max(), turns[:, ::-1], turns.ravel(), turns * 1.0, turns + 1000):
        np.save(path, wrong)
        reseal_shards(tmp_path / "s")
        with pytest.raises(FileError, match=r"turns.npy has spans that are no parts of questions"):
            Shards(tmp_path / "s", codec.vocabulary)
    path.unlink()
    with pytest.raises(ValueError, match=r"the token shards are incomplete: turns.npy"):
        Shards(tmp_path / "s", codec.vocabulary)
    other, _ = shards_of(tmp_path / "other", [conversation(1), conversation(2)])
    assert other.digest != digest


# --- documents in front ----------------------------------------------------------------------------------------------


FRONTS = [
    [caption("a red house")],
    [caption("trees"), Document(content=[Text("draw it")])],
    [Document([PICTURE, PICTURE])],
]
MAINS = [caption("a tree"), Document([PICTURE, Text("a")]), conversation(2)]


@pytest.mark.parametrize("main", MAINS)
@pytest.mark.parametrize("front", FRONTS)
def test_documents_stand_in_front(front, main):
    codec, rng = tiny.codec(), np.random.default_rng(0)
    alone = codec.encode(main)
    encoded = codec.put_in_front([codec.encode(one) for one in front], alone, weight=0.25)
    kept = len(encoded.ids) - len(alone.ids)
    weights = [0.0, *[0.25] * kept, *alone.weights()[1:].tolist()]
    assert encoded.weights().tolist() == weights and encoded.main_start == alone.main_start + kept
    example = make_example(encoded, codec.grammar, PLAIN, rng)
    assert example.weights.tolist() == weights[1:]
    pictures = codec.grammar.states(encoded.ids).count(State.IMAGE) // tiny.IMAGE_TOKENS
    assert pictures == sum(len(one.images) for one in (*front, main))


def test_masks_stay_in_the_main_document():
    codec, rng = tiny.codec(), np.random.default_rng(0)
    encoded = codec.put_in_front([codec.encode(caption("a red house"))], codec.encode(caption("a tree")), weight=0.5)
    front = encoded.weights()[1 : encoded.main_start]
    assert set(front) == {0.5}
    seen = 0
    for _ in range(200):
        spans = draw_spans(encoded, codec.vocabulary, Objective(unconditional_rate=0.0, part_rate=0.3), rng)
        example = label(encoded, spans, codec.grammar, PLAIN, len(encoded.ids) + 3)
        assert all(left >= encoded.main_start for left, _ in spans)
        assert example.inputs[: encoded.main_start].tolist() == encoded.ids[: encoded.main_start]
        assert example.weights[: len(front)].tolist() == front.tolist()
        seen += bool(spans)
    assert seen > 100


def test_a_picture_that_is_learnt_unconditionally_keeps_what_stands_in_front():
    """``</s>`` documents ``<sentinel:0> <break>``: the prompt that guides a picture with retrieved documents."""
    codec, always = tiny.codec(), Objective(cm3=False, unconditional_rate=1.0)
    v, front = codec.vocabulary, [codec.encode(caption("a red house"))]
    encoded, rng = codec.put_in_front(front, codec.encode(caption("a tree")), weight=0.5), np.random.default_rng(0)
    start = encoded.main_start
    example = make_example(encoded, codec.grammar, always, rng)
    assert example.inputs[: start + 2].tolist() == [*encoded.ids[:start], v.sentinel_id(0), v.break_id]
    assert set(example.weights[: start - 1]) == {0.5}
    picture = codec.put_in_front(front, codec.encode(Document(content=[PICTURE])))
    asked = codec.put_in_front(front, codec.encode(conversation(1)))
    for other in (picture, asked):  # without a text of its own, or with a question
        assert draw_spans(other, v, always, rng) == []


def test_what_cannot_stand_in_front():
    codec = tiny.codec()
    alone = codec.encode(caption("a tree"))
    assert codec.put_in_front([], alone) is alone
    with pytest.raises(ValueError, match="a conversation cannot stand in front of another document"):
        codec.put_in_front([codec.encode(conversation(1))], alone)
