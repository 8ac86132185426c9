"""Raw records of the paper's sources as documents."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from jam.cli import main
from jam.data.converters import balanced, caption, how_to, lima, plain_text, to_document
from jam.data.records import Record
from jam.documents import Document, Text, read_documents
from support import sources, tiny


def record(**fields):
    return Record("raw/records.jsonl", "3", fields, folder=Path("raw"))


def convert(converter, *options, **fields):
    return converter(fields, record(**fields), *options)


def test_captions_and_texts():
    document = convert(caption, caption="A house.", image="images/a.png", license="CC0", size=[1, 2])
    assert document.texts == ["A house."] and document.images[0].path == "raw/images/a.png"
    assert document.extra == {"license": "CC0"} and [type(part).__name__ for part in document.content] == [
        "Text",
        "Image",
    ]
    stored = convert(caption, text="A house.", jpg=sources.png(1))
    assert stored.images[0].load().tobytes() == tiny.picture(1, (9, 6)).tobytes()
    assert convert(plain_text, text="Words.", id="t1") == Document(
        [Text("Words.")], extra={"id": "t1"}, where="raw/records.jsonl:3: "
    )
    with pytest.raises(
        ValueError, match=r"no text; expected content or messages .*keys text, caption, txt; got .* body"
    ):
        convert(plain_text, body="Words.")
    with pytest.raises(ValueError, match="no image; expected one of the keys image"):
        convert(caption, text="Words.")
    with pytest.raises(ValueError, match="the text is not UTF-8"):
        convert(plain_text, txt=b"\xff\xfe\xfa")


def test_lima():
    document = convert(lima, conversations=["How?", "So.", "Why?", "Thus."], source="stackexchange")
    assert [(turn.role, turn.content) for turn in document.messages] == [
        ("user", [Text("How?")]),
        ("assistant", [Text("So.")]),
        ("user", [Text("Why?")]),
        ("assistant", [Text("Thus.")]),
    ]
    assert document.extra == {"source": "stackexchange"}
    with pytest.raises(ValueError, match='"conversations" has 1 turns'):
        convert(lima, conversations=["How?"])
    with pytest.raises(ValueError, match='no "conversations" that are a list of texts'):
        convert(lima, conversations=[{"from": "human"}])


def article(**changes):
    parts = [{"type": "text", "text": "This article shows it. In this article, do:"}]
    for number in range(5):
        parts += [{"type": "image", "image": f"{number}.png"}, {"type": "text", "text": f"Step {number}."}]
    return {"title": "How to Draw a House", "rating": 95, "category": "Arts", "content": parts} | changes


def test_how_to_articles_become_questions_and_answers():
    document = convert(how_to, **article())
    question, answer = document.messages
    assert question.content == [Text("How to Draw a House")]
    assert document.texts[1] == "The following answer shows it. In the following answer, do:"
    assert [image.path for image in document.images] == ["raw/0.png", "raw/1.png", "raw/2.png"]
    assert document.texts[-1] == "Step 4." and document.extra == {"rating": 95, "category": "Arts"}
    assert (question.role, answer.role) == ("user", "assistant")
    for changes, reason in (
        ({"rating": 90}, "rated 90, not above 90"),
        ({"rating": None}, "no rating"),
        ({"title": " "}, "no title"),
        ({"content": [{"type": "text", "text": "words"}]}, "no text or no picture"),
    ):
        with pytest.raises(ValueError, match=reason):
            convert(how_to, **article(**changes))
    turns = [{"role": "user", "content": "How do I?"}, {"role": "assistant", "content": article()["content"]}]
    document = convert(how_to, 0.0, 1, messages=turns)  # not rated, a question already
    assert document.texts[0] == "How do I?" and len(document.images) == 1


def test_records_are_known_by_their_keys():
    made = [
        to_document(record(**fields))
        for fields in (
            {"conversations": ["a", "b"]},
            {"text": "a", "image": "b.png"},
            {"text": "a"},
            {"content": '[{"type": "text", "text": "in JSON"}]'},
            {"content": "[1] a text that is none"},
        )
    ]
    assert [len(document.parts) for document in made] == [2, 2, 1, 1, 1]
    assert made[3].texts == ["in JSON"] and made[4].texts == ["[1] a text that is none"]


def test_categories_are_balanced():
    documents = [
        Document([Text(str(number))], extra={"category": "abc"[min(2, number // 10)]}) for number in range(100)
    ]
    documents += [Document([Text("few")], extra={"category": "d"})] * 2
    chosen = balanced(documents, 32, seed=0)
    assert Counter(one.extra["category"] for one in chosen) == {"a": 10, "b": 10, "c": 10, "d": 2}
    assert chosen == balanced(documents, 32, seed=0) != balanced(documents, 32, seed=1)
    places = [documents.index(one) for one in chosen]
    assert places == sorted(places)
    assert Counter(one.extra["category"] for one in balanced(documents, 1000, 0))["c"] == 80


def test_the_command(tmp_path, capsys):
    (tmp_path / "raw").mkdir()
    lines = [article(category="ab"[number % 2], rating=80 + number) for number in range(21)]
    path = tmp_path / "raw" / "wikihow.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + "{\n")
    out = tmp_path / "howto.jsonl"
    command = ["convert-documents", str(path), "--recipe", "howto", "--out", str(out)]
    assert main([*command, "--documents", "6"]) == 0
    said = capsys.readouterr().out
    assert "howto.jsonl: 6 documents" in said and "left out: 1 x rated 85, not above 90" in said
    documents = list(read_documents(out))
    assert Counter(document.extra["category"] for document in documents) == {"a": 3, "b": 3}
    assert documents[0].images[0].path == str(tmp_path / "raw" / "0.png")
    assert main(command) == 1 and "exists" in capsys.readouterr().err
    assert main([*command[:-1], str(tmp_path / "none.jsonl"), "--least-rating", "100"]) == 1
    assert "no record is a document by the recipe howto: " in capsys.readouterr().err
    assert not (tmp_path / "none.jsonl").exists()
