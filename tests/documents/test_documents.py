"""Documents: JSON lines in and out, pages out, and messages that name file and line."""

from __future__ import annotations

import json

import pytest
from PIL import Image as PILImage

from jam.documents import Document, Image, Message, Text, data_uri, parse_document, read_documents, write_documents
from support import tiny


def pixels(image: Image) -> bytes:
    return image.load().tobytes()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    tiny.picture(1, (6, 4)).save(tmp_path / "images" / "x.png")
    return tmp_path


def write_lines(folder, *records):
    path = folder / "docs.jsonl"
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records), encoding="utf-8")
    return path


def test_both_forms_and_all_kinds_of_pictures(folder):
    uri = data_uri(tiny.picture(2))
    parts = [{"type": "text", "text": "ä"}, {"type": "image", "image": "images/x.png"}]
    parts += [{"type": "image", "image": uri}, {"type": "image", "codes": [1, 2]}]
    turns = [{"role": "user", "content": "draw"}, {"role": "assistant", "content": parts}]
    first, second = read_documents(write_lines(folder, {"id": "a", "content": parts}, "", {"messages": turns}))
    assert first.extra == {"id": "a"} and first.texts == ["ä"] and len(first.images) == 3
    assert pixels(first.images[0]) == tiny.picture(1, (6, 4)).tobytes()
    assert pixels(first.images[1]) == tiny.picture(2).tobytes()
    assert first.images[2].codes == [1, 2]
    assert second.messages[0] == Message("user", [Text("draw")])
    assert second.answer == second.messages[1].content and len(second.parts) == 5
    assert first.where.endswith("docs.jsonl:1: ") and second.where.endswith("docs.jsonl:3: ")


def test_written_lines_are_read_back(folder):
    documents = [
        Document([Text("a"), Image(codes=[3, 4]), Image(pixels=tiny.picture(3))], extra={"source": "s"}),
        Document(messages=[Message("user", [Text("?")]), Message("assistant", [Text("!")])]),
    ]
    path = folder / "out.jsonl"
    write_documents(path, documents)
    first, second = read_documents(path)
    assert first.extra == {"source": "s"} and first.images[0].codes == [3, 4]
    assert pixels(first.images[1]) == tiny.picture(3).tobytes()
    assert second.messages == documents[1].messages


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"content": [', "not valid JSON"),
        ("[]", 'either "content" or "messages"'),
        ({"content": [], "messages": []}, 'either "content" or "messages"'),
        ({"content": 3}, '"content" must be a list of parts; got a number'),
        ({"content": [{"type": "video"}]}, "a part is"),
        ({"content": [{"type": "image", "codes": [1, "x"]}]}, "a part is"),
        ({"messages": {"role": "user"}}, '"messages" must be a list; got an object'),
        ({"messages": [{"role": "robot", "content": []}]}, 'a message needs a "role"'),
        ({"messages": [{"role": "user"}]}, '"content" must be a list of parts; got null'),
    ],
)
def test_broken_lines_name_file_and_line(folder, line, message):
    path = write_lines(folder, {"content": "fine"}, line)
    with pytest.raises(ValueError) as caught:
        list(read_documents(path))
    assert str(caught.value).startswith(f"{path}:2: ") and message in str(caught.value)


def test_lines_that_are_not_utf8_name_file_and_line(folder):
    path = folder / "docs.jsonl"
    path.write_bytes(b'{"content": "fine"}\n{"content": "\xff"}\n')
    with pytest.raises(ValueError, match=r"docs\.jsonl:2: the record is not valid JSON"):
        list(read_documents(path))


def test_missing_file_of_documents(folder):
    with pytest.raises(ValueError, match="no such file of documents"):
        list(read_documents(folder / "none.jsonl"))


def test_missing_and_damaged_pictures_name_file_and_line(folder):
    whole = (folder / "images" / "x.png").read_bytes()
    (folder / "images" / "cut.png").write_bytes(whole[: len(whole) - 30])
    PILImage.new("RGB", (64, 64), "red").save(folder / "images" / "whole.jpg")
    jpeg = (folder / "images" / "whole.jpg").read_bytes()
    (folder / "images" / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (folder / "images" / "text.png").write_text("no picture")
    (folder / "images" / "empty.png").write_bytes(b"")
    cases = {
        "images/none.png": "does not exist",
        "images/cut.png": "is it truncated",
        "images/cut.jpg": "is it truncated",
        "images/text.png": "cannot be read",
        "images/empty.png": "cannot be read",
        "data:image/png;base64,!!!": "in the data URI cannot be read",
        "data:image/png;base64,aGVsbG8=": "in the data URI cannot be read",
    }
    path = write_lines(folder, *({"content": [{"type": "image", "image": name}]} for name in cases))
    documents = list(read_documents(path))  # pictures are read only when they are asked for
    for number, (document, message) in enumerate(zip(documents, cases.values(), strict=True), 1):
        with pytest.raises(ValueError) as caught:
            document.images[0].load()
        assert str(caught.value).startswith(f"{path}:{number}: ") and message in str(caught.value)


def test_half_of_a_surrogate_pair_is_no_text(folder):
    """What remains of an emoji that was cut in two; a whole pair is one character."""
    path = folder / "cut.jsonl"
    path.write_text(
        '{"text": 0, "content": "whole \\ud83d\\ude00"}\n{"content": [{"type": "text", "text": "cut \\ud83d"}]}\n'
    )
    documents = read_documents(path)
    assert next(documents).texts == ["whole \U0001f600"]
    with pytest.raises(ValueError, match=rf"{path}:2: character 4 of a text is half a surrogate pair \('cut .ud83d'\)"):
        next(documents)


def test_other_keys_come_back_whatever_they_hold(tmp_path):
    document = Document([Text("a")], extra={"id": "\ud83d", "author": "\u00e9"})
    write_documents(tmp_path / "a.jsonl", [document])
    (back,) = read_documents(tmp_path / "a.jsonl")
    assert back.extra == document.extra


def test_codes_alone_cannot_be_shown():
    with pytest.raises(ValueError, match="decode them with the model's image tokenizer"):
        Image(codes=[1]).load()


def test_pages(tmp_path):
    question = Message("user", [Text("Draw <b>?")])
    answer = Message("assistant", [Text("One & two"), Image(pixels=tiny.picture(0)), Text(""), Text(" end ")])
    document = Document(messages=[question, answer], extra={"finish_reason": "end"})
    page = document.save(tmp_path / "page.html").read_text()
    assert "<h2>Draw &lt;b&gt;?</h2>" in page and "<p>One &amp; two</p>" in page and "finished: end" in page
    assert page.count("<p>") == 2 and page.count("<img") == 1 and data_uri(tiny.picture(0)) in page
    for _ in range(2):  # saving again replaces the pictures
        text = document.save(tmp_path / "page.md").read_text()
        assert text == "## Draw \\<b>?\n\nOne & two\n\n![](page_images/01.png)\n\nend\n\n*finished: end*\n"
        assert [path.name for path in (tmp_path / "page_images").iterdir()] == ["01.png"]
    assert PILImage.open(tmp_path / "page_images" / "01.png").tobytes() == tiny.picture(0).tobytes()
    with pytest.raises(ValueError, match=r"saved as \.html or \.md, not as '\.pdf'"):
        document.save(tmp_path / "page.pdf")


def test_content_or_messages():
    with pytest.raises(ValueError, match="not both"):
        Document([Text("a")], [Message("user", [])])
    assert parse_document('{"messages": [{"role": "user", "content": "q"}]}').answer == []
