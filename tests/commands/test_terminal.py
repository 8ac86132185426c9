"""What documents, files and models say reaches the terminal as text: it steers nothing, and hides nothing."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.text import Text as RichText

from jam.cli import main
from jam.console import Console, visible
from jam.console.progress import progress_bar
from support import tiny

HOSTILE = "\x1b[2J\x1b]0;title\x07\x9b31m\r\x08\x7f\u202etxt.exe\u202c\u2066x\u2069\x1b]8;;http://x\x1b\\"
SHOWN = (
    r"\x1b[2J\x1b]0;title\x07\x9b31m\r\x08\x7f\u202etxt.exe\u202c\u2066x\u2069\x1b]8;;http://x\x1b" + "\\"
)  # the last of it is a backslash
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
SOURCE = Path(__file__).parents[2]


def test_visible() -> None:
    assert visible(HOSTILE) == SHOWN and visible("a\tb\nc ä€😀 \u05d0\u200f") == "a\tb\nc ä€😀 \u05d0\u200f"
    for code in range(0x3000):
        assert (visible(chr(code)) != chr(code)) == bool(CONTROLS.match(chr(code)))
    for cut in range(len(HOSTILE)):  # as streams come, in pieces
        assert visible(HOSTILE[:cut]) + visible(HOSTILE[cut:]) == SHOWN


def shown(show: Any, terminal: bool = False, **options: Any) -> str:
    file = io.StringIO()
    console = Console(file=file, width=200, force_terminal=terminal, color_system=None, highlight=False, **options)
    show(console)
    return file.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("markup", [False, True])
def test_all_that_a_console_prints(terminal: bool, markup: bool) -> None:
    def table(console: Console) -> None:
        made = Table(title=HOSTILE, caption=HOSTILE)
        made.add_column(HOSTILE)
        made.add_row(HOSTILE)
        console.print(made)

    ways = {
        "text": lambda console: console.print(HOSTILE),
        "values": lambda console: console.print([HOSTILE], {HOSTILE: 1}),
        "rich text": lambda console: console.print(RichText(HOSTILE)),
        "table": table,
        "rule": lambda console: console.rule(HOSTILE),
    }
    for name, way in ways.items():
        found = shown(way, terminal, markup=markup)
        assert not CONTROLS.search(found) and "txt.exe" in found, name


def test_a_line_keeps_its_place_and_is_no_markup() -> None:
    assert shown(lambda console: console.print(HOSTILE)) == SHOWN + "\n"
    for text in ("[red]a[/red]", "[/nothing]", "[link=http://x]a[/link]", ":smile: [1]"):
        assert shown(lambda console, text=text: console.print(text)) == text + "\n"


def test_bars_steer_the_terminal_and_their_texts_do_not() -> None:
    def work(console: Console) -> None:
        with progress_bar(console) as progress:
            progress.add_task(f"[/x]{HOSTILE}", total=2, figures=f"[/y]{HOSTILE}")

    found = shown(work, terminal=True)
    own = re.sub(r"\x1b\[(?:\?25[lh]|2K|1A)|\r", "", found)  # of rich: cursor and lines
    assert own != found and not CONTROLS.search(own) and r"[/x]\x1b[2J" in own

    def status(console: Console) -> None:
        with console.status(RichText("[/z]" + HOSTILE)):
            pass
        with Progress(TextColumn("{task.description}", markup=False), console=console) as progress:
            progress.add_task(HOSTILE)

    found = re.sub(r"\x1b\[(?:\?25[lh]|2K|1A)|\r", "", shown(status, terminal=True))
    assert not CONTROLS.search(found) and r"[/z]\x1b[2J" in found


def test_no_other_console_is_made() -> None:
    """And what is printed without one is JSON, which has only ASCII, or `visible`."""
    for path in (SOURCE / "src").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "rich.console import" not in text and "import rich" not in text, path
        if path.parent.name != "console":
            assert "from rich import console" not in text, path
        for line in re.findall(r"(?<![\w.])print\(.*", text):
            assert re.match(r"print\((?:visible\(|json\.dumps\(|overview\(\)|f.jam \{version|PICTURE\))", line), (
                path,
                line,
            )


def test_errors_name_files_and_keys_that_are_hostile(tmp_path: Path, capsys: Any) -> None:
    name = f"{tmp_path}/\x1b[31m[bold]\u202egpj.jsonl"
    Path(name).write_text('{"text": "A.", "image": "/\\u001b[2J\\u009b.png"}\n')
    for words in (["eval", "none", name], ["prepare", name + "x", "--model", "none", "--out", str(tmp_path / "out")]):
        assert main(words) == 1
        out, error = capsys.readouterr()
        assert not CONTROLS.search(out + error) and r"\x1b[31m[bold]\u202egpj.jsonl" in error
    assert main(["\x1b[2J"]) == 2
    assert not CONTROLS.search(capsys.readouterr().err)


def test_rejects_and_summaries(tmp_path: Path, capsys: Any) -> None:
    """Keys and pictures of records, the folder that is written, and what a conversion leaves out."""
    made = tiny.model(tmp_path / "made")
    (tmp_path / "fused").mkdir()
    made.save(tmp_path / "fused")
    path = tmp_path / "a.jsonl"
    lines = [
        {"text": "A."},
        {"text": "A.", "image": f"{HOSTILE}.png"},
        {f"{HOSTILE}.png": HOSTILE, "text": "A.", "x": "a.png"},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = f"{tmp_path}/out\x1b[2J"
    for limit, status in (("0", 1), ("1000", 0)):
        assert (
            main(["prepare", str(path), "--model", str(tmp_path / "fused"), "--out", out, "--max-rejects", limit])
            == status
        )
        captured = capsys.readouterr()
        assert not CONTROLS.search(captured.out + captured.err) and r"\x1b[2J" in captured.out + captured.err
    assert main(["convert-documents", str(path), "--recipe", "captions", "--out", str(tmp_path / "b.jsonl")]) in (0, 1)
    captured = capsys.readouterr()
    assert not CONTROLS.search(captured.out + captured.err)


@pytest.mark.parametrize("questions", [1, 2])
def test_answers_on_a_terminal(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, questions: int) -> None:
    """Questions, beginnings and pieces of an answer, one by one or in a batch."""
    from jam.commands import generate

    made = tiny.model(tmp_path / "made")
    monkeypatch.setattr(generate, "load_chosen", lambda *arguments: made)
    words = ["generate", "model", *["red \x1b[2J"] * questions, "--begin", "\x9b31m\u202e", "--max-new-tokens", "4"]
    assert main(words) == 0
    captured = capsys.readouterr()
    assert not CONTROLS.search(captured.out + captured.err) and r"\x1b[2J" in captured.out
