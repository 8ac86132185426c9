"""Documents whose question, or a picture behind it, leaves no room in the context: left out, counted and named."""

from __future__ import annotations

import json

import pytest

from jam.api.loading import load_codec
from jam.cli import main
from jam.codec import Encoded
from jam.data import Loader, Objective, Shards, Source, open_sources, prepare
from jam.documents import Document, Image, Message, Text
from jam.evaluation import evaluate
from support import tiny

CONTEXT = 48


def conversation(question: str, answer: str = "Then draw it.") -> dict:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


LONG = "How do I draw it? " * 40


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model folder and documents: the second and fourth are too long, the third can be split."""
    folder = tmp_path_factory.mktemp("left-out")
    model = tiny.model(folder / "made", context=CONTEXT)
    (folder / "fused").mkdir()
    model.save(folder / "fused")
    made = [conversation("How?"), conversation(LONG), conversation("How?", LONG), conversation(LONG), {"text": "Some."}]
    (folder / "a.jsonl").write_text("\n" + "".join(json.dumps(one) + "\n" for one in made))  # the first line is blank
    return folder


def shards_of(place, folder):
    """All five documents, as for a model with a longer context."""
    codec = load_codec(place / "fused", "cpu")
    list(prepare(open_sources([place / "a.jsonl"]), codec, folder))
    return Shards(folder, codec.vocabulary), codec


def test_prepare_rejects_them(place, tmp_path, capsys):
    command = ["prepare", str(place / "a.jsonl"), "--model", str(place / "fused"), "--out"]
    assert main([*command, str(tmp_path / "out"), "--max-rejects", "2"]) == 0
    assert "3 documents" in capsys.readouterr().out
    found = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert [one["key"] for one in found] == ["3", "5"]
    for one in found:
        assert f"leaves no room for its answer in a piece of {CONTEXT + 1}; the context is {CONTEXT}" in one["reason"]


def test_training_leaves_them_out(place, tmp_path):
    shards, codec = shards_of(place, tmp_path / "shards")
    source = Source(shards, 1.0, CONTEXT)
    assert [line.partition(": a question of")[0] for line in source.named_left_out()] == [
        f"{place / 'a.jsonl'}:{line}" for line in (3, 5)
    ]
    kept = [0, 2, 4]
    assert {source.document_of(piece) for piece in range(len(source))} == set(kept)
    assert len(source) > len(kept)  # one is split
    for piece in range(len(source)):
        encoded = shards[source.document_of(piece)]
        assert source[piece].ids[: encoded.main_start] == encoded.ids[: encoded.main_start]
    assert source.mean_length == sum(len(shards[one].ids) for one in kept) / len(source)
    loader = Loader([source], codec.grammar, CONTEXT, 2, Objective(), 0)
    assert {piece for _, piece in loader.documents_of(0)} == set(range(len(source)))


def test_of_the_command_too(place, tmp_path, capsys):
    """`jam train` says how many and which, and writes all of them down."""
    shards_of(place, tmp_path / "shards")
    options = ["--steps", "1", "--warmup-steps", "0", "--batch-tokens", str(2 * CONTEXT), "--micro-batch-size", "2"]
    options += ["--sources", json.dumps([{"path": str(tmp_path / "shards")}]), "--device", "cpu"]
    assert main(["train", "--model", str(place / "fused"), "--out", str(tmp_path / "run"), *options]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"left out: 2 documents (all in {tmp_path}/run/left_out.txt): {place}/a.jsonl:3: a question of" in said
    assert len((tmp_path / "run" / "left_out.txt").read_text().splitlines()) == 2


def test_nothing_but_such_documents_is_an_error(place, tmp_path):
    codec = tiny.codec()
    question = [Message("user", [Text(LONG)]), Message("assistant", [Text("So.")])]
    list(prepare([Document(messages=question)] * 3, codec, tmp_path / "shards"))
    with pytest.raises(ValueError, match=r"shards: no document can be used: documents:1: a question of \d+ ids"):
        Source(Shards(tmp_path / "shards", codec.vocabulary), 1.0, CONTEXT)


def test_shards_that_do_not_say_where_documents_come_from(place, tmp_path):
    shards, codec = shards_of(place, tmp_path / "shards")
    assert [shards.origin(index) for index in range(5)] == [f"{place / 'a.jsonl'}:{line}" for line in range(2, 7)]
    for damaged in ("{", None):
        origins = tmp_path / "shards" / "origins.jsonl"
        origins.write_text(damaged) if damaged else origins.unlink()
        without = Shards(tmp_path / "shards", codec.vocabulary)
        assert without.origin(3) == f"{tmp_path / 'shards'}, document 4"


def test_eval_leaves_them_out(place, tmp_path, capsys):
    command = ["eval", str(place / "fused"), str(place / "a.jsonl"), "--device", "cpu"]
    assert main(command) == 0
    output = capsys.readouterr()
    error = " ".join(output.err.split())
    for line in (3, 5):
        assert f"left out: {place}/a.jsonl:{line}: a question of" in error
    assert "2 documents were left out" in error
    lines = (place / "a.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "fitting.jsonl").write_text("".join(lines[index] for index in (1, 3, 5)))
    command[2] = str(tmp_path / "fitting.jsonl")
    assert main(command) == 0 and json.loads(capsys.readouterr().out) == json.loads(output.out)
    (tmp_path / "long.jsonl").write_text(lines[2])
    command[2] = str(tmp_path / "long.jsonl")
    assert main(command) == 1 and "no document can be measured" in capsys.readouterr().err


def test_the_python_call_asks_for_it(place, tmp_path):
    model = tiny.model(tmp_path / "model", context=CONTEXT)
    picture = Image(codes=[1] * tiny.IMAGE_TOKENS)
    room = CONTEXT + 1 - tiny.IMAGE_TOKENS  # a picture needs its <break> and </s> too
    question = Document(
        messages=[Message("user", [Text("a" * room)]), Message("assistant", [picture])], where="b.jsonl:9: "
    )
    with pytest.raises(ValueError, match=r"b.jsonl:9: an image of 4 tokens after a question of \d+ ids does not fit"):
        evaluate(model.joint, model.codec, [question])
    told: list[str] = []
    assert evaluate(model.joint, model.codec, [question], leave_out=told.append)["all_tokens"] == 0
    assert len(told) == 1 and isinstance(model.codec.encode(question), Encoded)
