"""What the documents name is there: links, anchors, files in backticks, rooms, commands, functions of `import jam`."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

import jam
from jam.commands import parse

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").is_file())
SOURCE = ROOT / "src" / "jam"
TREES = ("docs", "recipes", "benchmarks", "examples", "src", "tests", ".github")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(path for tree in TREES[:3] for path in (ROOT / tree).rglob("*.md"))])
FILES = {path.relative_to(ROOT).as_posix() for tree in TREES for path in (ROOT / tree).rglob("*") if path.is_file()}
SUFFIXES = (".py", ".cpp", ".md", ".yaml", ".yml", ".toml", ".cff")
MADE = {"image_tokenizer/", "tokenizer/", "model/", "fuzz-failures/", "vqgan.yaml"}  # by runs, not in the tree
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
MACHINE = re.compile(r"(?<![\w.])/(?:work|root|home|tmp|opt|mnt|Users)/")

documents = pytest.mark.parametrize("path", DOCUMENTS, ids=[path.relative_to(ROOT).as_posix() for path in DOCUMENTS])


def prose(path: Path) -> str:
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def fences(path: Path, *languages: str) -> Iterator[str]:
    for language, text in FENCE.findall(path.read_text(encoding="utf-8")):
        if language in languages:
            yield text


def anchors(path: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def is_there(name: str, document: Path) -> bool:
    """Whether a path begins at the root, at src/jam or beside the document, or ends one, as names of tests do."""
    places = (ROOT, SOURCE, document.parent)
    if any((place / name).exists() for place in places):
        return True
    return not name.endswith("/") and any(f"/{file}".endswith(f"/{name}") for file in FILES)


def named_paths(text: str) -> Iterator[str]:
    """What stands in backticks and looks like a file or a folder of this repository."""
    for name in re.findall(r"`([\w.][\w./-]*)`", text):
        folder = name.endswith("/") or name.split("/")[0] in TREES
        if (name.endswith(SUFFIXES) or folder) and name not in MADE:
            yield name


def calls(text: str) -> Iterator[list[str]]:
    """The words of every call of jam in a block; a synopsis, with brackets or an ellipsis, is none."""
    for line in text.replace("\\\n", " ").splitlines():
        if re.match(r"\s*(jam|torchrun)\s", line) and not re.search(r"\[--|\.\.\.", line):
            words = shlex.split(line, comments=True)
            yield words[words.index("jam.cli" if words[0] == "torchrun" else "jam") + 1 :]


@documents
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if link.startswith(("https://", "http://")):
            continue
        file, _, anchor = link.partition("#")
        there = path.parent / file if file else path
        assert there.exists(), link
        assert not anchor or anchor in anchors(there), link


@documents
def test_files_in_backticks_are_there(path: Path) -> None:
    assert [name for name in named_paths(prose(path)) if not is_there(name, path)] == []


@documents
def test_no_path_of_a_machine(path: Path) -> None:
    assert MACHINE.search(path.read_text(encoding="utf-8")) is None


@documents
def test_commands_parse(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # where the recipes are
    for text in fences(path, ""):
        for words in calls(text):
            if "RECIPE" not in words:
                assert parse(words)[0] == words[0]


@documents
def test_python_names_what_jam_has(path: Path) -> None:
    for text in fences(path, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "jam":
                assert hasattr(jam, node.attr), f"jam.{node.attr}"


def test_the_readme_calls_targets_and_scripts_that_exist() -> None:
    text = "".join(fences(ROOT / "README.md", ""))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert [target for target in re.findall(r"^make (\S+)", text, re.MULTILINE) if f"\n{target}:" not in makefile] == []
    assert [script for script in re.findall(r"^python (\S+)", text, re.MULTILINE) if script not in FILES] == []


def test_the_tree_of_the_readme_and_the_table_of_rooms() -> None:
    (tree,) = (text for text in fences(ROOT / "README.md", "") if text.startswith("src/jam/"))
    names = re.findall(r"(?:^|(?<=\s))[a-z_]+(?:/|\.py)(?=\s)", tree)
    assert (
        len(names) > 15 and [name for name in names if not ((SOURCE / name).exists() or (ROOT / name).exists())] == []
    )
    rooms = {path.name for path in SOURCE.iterdir() if path.suffix == ".py"} - {"__init__.py", "waiting.py"}
    rooms |= {f"{path.parent.name}/" for path in SOURCE.glob("*/__init__.py")}
    assert rooms - set(named_paths((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))) == set()


def test_the_index_lists_every_document() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    decisions = (ROOT / "docs" / "decisions" / "README.md").read_text(encoding="utf-8")
    listed = {(ROOT / "docs" / link).resolve() for link in re.findall(r"\]\(([^)#\s]+)\)", index)}
    listed |= {(ROOT / "docs" / "decisions" / link).resolve() for link in re.findall(r"\]\(([^)#\s]+)\)", decisions)}
    results = set((ROOT / "benchmarks" / "results").glob("*.md"))
    assert {path.resolve() for path in DOCUMENTS} - listed - results - {ROOT / "docs" / "index.md"} == set()
