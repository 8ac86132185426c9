"""JSON lines, arrays and records of several lines give the same records, whatever is read at a time."""

from __future__ import annotations

import gzip
import io
import json
import random

import pytest

from jam.data import open_sources
from jam.data.converters import to_document
from jam.documents import JsonError, json_files, json_records, read_documents


def records() -> list[dict]:
    rng = random.Random(0)
    return [
        {"text": 'ä€😀\n"]},{[' * rng.randrange(30), "n": [rng.random() for _ in range(rng.randrange(5))], "number": n}
        for n in range(60)
    ]


FORMS = {
    "lines": lambda made: "\n\n".join(map(json.dumps, made)),
    "array": json.dumps,
    "array in letters": lambda made: "\n " + json.dumps(made, ensure_ascii=False, indent=1) + "\n\n",
    "array behind a mark": lambda made: "\ufeff" + json.dumps(made),
    "several lines each": lambda made: "\n".join(json.dumps(one, indent=2) for one in made),
    "several lines, at the end of the file": lambda made: "".join(json.dumps(one, indent=2) for one in made),
}


@pytest.mark.parametrize("step", [1, 7, 64, 2**16])
@pytest.mark.parametrize("form", FORMS)
def test_all_forms_give_the_same(form, step, monkeypatch):
    monkeypatch.setattr(json_files, "STEP", step)
    text = FORMS[form](records()).encode()
    assert [json.loads(one) for _, one in json_records(io.BytesIO(text))] == records()


def test_keys_are_lines_or_numbers():
    assert [key for key, _ in json_records(io.BytesIO(b'\n{"a": 1}\n\n{broken\n{}'))] == ["2", "4", "5"]
    assert [key for key, _ in json_records(io.BytesIO(b'[{"a": 1},\n\n{"a": 2}]'))] == ["1", "2"]
    assert list(json_records(io.BytesIO(b"[1, 23,\n 456]"))) == [("1", b"1"), ("2", b"23"), ("3", b"456")]
    for first in ("{", '{"a":', '{"a": 1,', '{"a": [', "{broken"):  # a line that is cut costs no other
        lines = [first, '{"a": 1}'] if first[-1] in "{,n" else [first]
        text = "\n".join(lines).encode()
        assert [one.strip() for _, one in json_records(io.BytesIO(text))] == [line.encode() for line in lines]
    for empty in (b"", b" \n", b"[]", b"[\n ]"):
        assert list(json_records(io.BytesIO(empty))) == []


@pytest.mark.parametrize(
    "text",
    [
        b'[{"a": 1}',
        b'[{"a": 1},',
        b'[{"a": 1} {"a": 2}]',
        b'[{"a": 1}, {"a": tru}]',
        b'[{"a": "' + b"x" * 100,
        b'{\n"a":',
        b"[" * 200_000,
        b'[{"a": "\xff"}]',
        b'[{"a": "\xe2\x82',
    ],
)
def test_what_breaks_off_is_said(text):
    with pytest.raises(JsonError):
        list(json_records(io.BytesIO(text)))


@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "a.jsonl"])
def test_sources_and_documents_are_arrays_too(tmp_path, name):
    path = tmp_path / name
    made = [{"id": f"d{number}", "content": f"Text {number}."} for number in range(5)]
    text = json.dumps(made, indent=2).encode()
    path.write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    (source,) = open_sources([path])
    for skip in range(6):
        found = list(source.read(skip))
        assert [to_document(one).texts for one in found] == [[one["content"]] for one in made[skip:]]
        assert [one.key for one in found] == [str(number) for number in range(skip + 1, 6)]
    cut = text[:-30]
    path.write_bytes(gzip.compress(cut) if name.endswith("gz") else cut)
    with pytest.raises(ValueError, match=rf"{name}: cannot be read after record 4 .* is it whole"):
        list(open_sources([path])[0].read())
    if not name.endswith("gz"):
        with pytest.raises(ValueError, match=rf"{name}: cannot be read to its end .*; is it whole"):
            list(read_documents(path))


@pytest.mark.parametrize("text", ['[]\n{"content": "a"}', '[{"content": "a"}]\n{"content": "b"}', "[1] 2"])
def test_nothing_stands_behind_an_array(tmp_path, text):
    """What would not be read is said, not left out."""
    (tmp_path / "documents.json").write_text(text)
    with pytest.raises(ValueError, match="expected the end of the file after the array"):
        list(json_records((tmp_path / "documents.json").open("rb")))
