"""The rooms of src/jam and what each may import: the table below, held against the imports in the code.

A module's room is the first name behind `jam`. Imports within a room are free.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "jam"

TABLE = """
| room        | may import                                                                   |
| ----------- | ---------------------------------------------------------------------------- |
| checked     |                                                                              |
| console     |                                                                              |
| files       |                                                                              |
| documents   | files                                                                         |
| layout      |                                                                              |
| vocabulary  | checked, layout                                                              |
| checkpoints | checked, files                                                                         |
| packed      |                                                                              |
| grammar     | layout, vocabulary                                                           |
| cm3         | layout, vocabulary, grammar                                                  |
| codec       | files, documents, layout, vocabulary, grammar, checkpoints                    |
| models      | layout, vocabulary, grammar, packed                                          |
| fusion      | checked, files, layout, vocabulary, models, codec, checkpoints                         |
| data        | checked, files, documents, vocabulary, grammar, packed, cm3, codec, checkpoints        |
| training    | checked, files, models, data, checkpoints                                              |
| tokenizer_training | checked, files, documents, checkpoints, training                                |
| planning    | checkpoints, files, layout, vocabulary, models, training                                   |
| generation  | documents, vocabulary, grammar, cm3, codec, models                           |
| evaluation  | files, documents, vocabulary, grammar, codec, models, fusion, data, checkpoints |
| tutorials   | documents                                                                    |
| api         | all                                                                          |
| commands    | all                                                                          |
| demo        | all                                                                          |
| cli         | checkpoints, commands, console                                                            |
| __main__    | cli                                                                          |
| waiting     |                                                                              |
| __init__    | documents, api, fusion, generation, tokenizer_training, training, tutorials, waiting |
"""
# Who may import these at all; they are no part of "all" for the others.
ONLY_BY = {
    "api": {"commands", "demo"},
    "console": {"commands", "demo", "cli"},
    "tutorials": {"api", "demo"},
    "demo": {"commands"},
    "commands": set(),
    "cli": {"__main__"},
    "__main__": set(),
    "waiting": {"__init__"},
    "__init__": set(),
}


def read_table() -> dict[str, set[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in TABLE.strip().splitlines()[2:]]
    rooms = {room for room, _ in rows}
    table = {}
    for room, cell in rows:
        named = {name.strip() for name in cell.split(",") if name.strip()}
        table[room] = {other for other in rooms if room in ONLY_BY.get(other, {room})} if named == {"all"} else named
        assert table[room] <= rooms, f"the row of {room} names rooms that have no row"
    return table


def room_of(module: str) -> str:
    """`jam.models.cache` -> `models`; `jam` itself is its `__init__`."""
    names = module.split(".")
    return names[1] if len(names) > 1 else "__init__"


def imported_rooms(path: Path, source: Path) -> Iterator[tuple[int, str]]:
    """Line and room of every import of ours in a file, whatever its form and wherever it stands."""
    package = ["jam", *path.relative_to(source).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            # `from jam import cm3` names the room behind the `import`.
            modules = [f"jam.{alias.name}" for alias in node.names] if module == "jam" else [module]
        else:
            continue
        for module in modules:
            if module.split(".")[0] == "jam":
                yield node.lineno, room_of(module)


def violations(source: Path) -> list[str]:
    table, found = read_table(), []
    for path in sorted(source.rglob("*.py")):
        room = path.relative_to(source).parts[0].removesuffix(".py")
        if room not in table:
            found.append(f"{path}: the room {room} has no row in the table")
            continue
        for line, other in imported_rooms(path, source):
            if other not in table[room] | {room}:
                found.append(f"{path}:{line}: {room} may not import {other}")
    return found


def test_imports_hold_the_table() -> None:
    assert violations(SOURCE) == []


def test_every_row_is_a_room() -> None:
    rooms = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert rooms == set(read_table())


def test_the_order_has_no_circle() -> None:
    """Rooms can be listed so that each imports only earlier ones."""
    table = read_table()
    while table:
        free = [room for room, others in table.items() if not others & table.keys()]
        assert free, f"circle among {sorted(table)}"
        for room in free:
            del table[room]


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("vocabulary.py", "from jam.grammar import Grammar"),
        ("vocabulary.py", "def late():\n    import jam.models.cache"),
        ("grammar.py", "from jam import cm3"),
        ("models/towers/opt.py", "from ...data import split"),
        ("models/cross.py", "from .. import codec"),
        ("training/trainer.py", "from jam.demo.story import story"),
        ("evaluation/proof.py", "from jam.tutorials.corpora import text_tutorials"),
        ("tutorials/things.py", "if TYPE_CHECKING:\n    from jam.api import Model"),
        ("newroom/file.py", ""),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, file: str, line: str) -> None:
    path = tmp_path / "jam" / file
    path.parent.mkdir(parents=True)
    path.write_text(line)
    assert len(violations(tmp_path / "jam")) == 1


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("models/towers/opt.py", "from .base import Rows\nfrom ..rows import x\nfrom ...vocabulary import Vocabulary"),
        ("grammar.py", "import json\nfrom jamming import x\nfrom jam.vocabulary import Vocabulary"),
        ("commands/demo.py", "from jam.demo.story import story"),
    ],
)
def test_what_is_allowed_is_not_reported(tmp_path: Path, file: str, line: str) -> None:
    path = tmp_path / "jam" / file
    path.parent.mkdir(parents=True)
    path.write_text(line)
    assert violations(tmp_path / "jam") == []
