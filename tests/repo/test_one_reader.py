"""JSON and YAML of files are read in one place, `jam.files`, whose errors name the file."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from jam.files import MAX_DEPTH, MAX_YAML, FileError, parse_json, parse_yaml, read_json, read_yaml, reading, reason

SOURCE = Path(__file__).parents[2] / "src" / "jam"
OTHER_READERS = re.compile(r"json\.loads?\(|JSONDecoder|\byaml\.|from json import|from yaml import")
# What may read otherwise, and why.
ALLOWED = {
    "files.py": "the one reader",
    "codec/text.py": "json.loads of what `tokenizers` says of a tokenizer in memory",
    "fusion/tokenizers.py": "json.loads of what `tokenizers` says of a pipeline in memory",
    "fusion/single.py": "json.loads of what `transformers` says of a config in memory",
    "documents/json_files.py": "JSONDecoder finds where a record of an array ends; parse_json reads the record",
}


def test_nothing_else_reads_json_or_yaml() -> None:
    readers = {str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.py") if OTHER_READERS.search(path.read_text())}
    assert readers == ALLOWED.keys()


@pytest.mark.parametrize("line", ["json.load(file)", "json.loads(path.read_text())", "yaml.safe_load(text)"])
def test_another_reader_is_found(line: str) -> None:
    assert OTHER_READERS.search(line)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is not valid JSON"),
        (b"{", "is not valid JSON"),
        (b'{"a": "\xff"}', "is not valid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not valid JSON"),
        (b"[" * 100_000, f"is nested deeper than {MAX_DEPTH}"),
        (b'{"a": ' * 200 + b"1" + b"}" * 200, f"is nested deeper than {MAX_DEPTH}"),
        (b"[1]", "holds a list where an object is expected"),
        (b"null", "holds null where an object is expected"),
    ],
)
def test_json_that_is_none(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(FileError, match=rf"{path} {problem}.*; get this file anew$") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


def test_json_may_be_as_deep_as_it_says() -> None:
    assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH, "it")
    with pytest.raises(FileError, match="nested deeper"):
        parse_json("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "it")


def bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]" for number in range(1, 12)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("a: [1", "is not valid YAML: while parsing a flow sequence, expected"),
        ("a: 1\nb: 2\na: 3", "is not valid YAML: the key a twice, line 3"),
        ("a: {b: 1, b: 2}", "the key b twice"),
        ("a: 2026-13-45", "is not valid YAML: month must be in"),
        ("a: !!python/object/apply:os.system [ls]", "is not valid YAML: could not determine a constructor"),
        ("a: &a [*a]", "refers to its own parts so often"),
        (bomb(), "refers to its own parts so often"),
        ("[" * 5000, "is not valid YAML: it is nested too deep"),
        ("a: \x00", "is not valid YAML"),
        ("? [a, {b: c}]\n: 1", "is not valid YAML"),
    ],
)
def test_yaml_that_is_none(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    with pytest.raises(FileError, match=re.escape(f"{path} ") + ".*" + re.escape(problem)) as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value) and "<unicode" not in str(caught.value)


def test_a_yaml_file_of_any_size_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_bytes(b"#" * (MAX_YAML + 1))
    with pytest.raises(FileError, match="more than the"):
        read_yaml(tmp_path / "recipe.yaml")


def test_yaml_reads_numbers_as_yaml_1_2() -> None:
    assert parse_yaml("{a: 1e-3, b: 3E5, c: 1.5, d: ~, e: 'x'}", "it") == {
        "a": 1e-3,
        "b": 3e5,
        "c": 1.5,
        "d": None,
        "e": "x",
    }
    assert parse_yaml("", "it") is None


def test_what_a_library_raises_names_the_file() -> None:
    with (
        pytest.raises(FileError, match=r"^config.json cannot be read \(it lacks 'size'\); fetch it$"),
        reading("config.json", "fetch it"),
    ):
        raise KeyError("size")
    with pytest.raises(RuntimeError, match="out of memory"), reading("config.json"):
        raise RuntimeError("CUDA out of memory")
    assert reason(ValueError(f"{object()} is wrong\nand more")) == "<object> is wrong"


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to(path.name), lambda path: None])
def test_what_is_no_file_is_named(tmp_path: Path, make: object) -> None:
    path = tmp_path / "config.json"
    make(path)  # type: ignore[operator]
    with pytest.raises(FileError, match=str(path)):
        read_json(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(FileError, match="is no regular file"):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to(path.name)])
def test_a_record_that_is_no_file_is_named_where_a_run_goes_on(tmp_path: Path, make: Callable[[Path], None]) -> None:
    from jam.data.verdicts import Verdicts
    from jam.training.records import RECORDS, Records

    make(tmp_path / RECORDS)
    with pytest.raises(FileError, match=str(tmp_path / RECORDS)):
        Records(tmp_path, 1)
    make(tmp_path / "verdicts.jsonl")
    with pytest.raises(FileError, match=str(tmp_path / "verdicts.jsonl")):
        Verdicts(tmp_path / "verdicts.jsonl").forget({"seen": 3})
