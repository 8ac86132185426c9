"""The command line as a newcomer reads it: what options are for, their defaults, examples that work, results named."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from jam.cli import main
from jam.commands import COMMANDS, SUMMARIES, parse

ROOT = Path(__file__).parents[2]
EXAMPLES = [
    (command, line.strip())
    for command in SUMMARIES
    for line in COMMANDS[command].EXAMPLES.splitlines()
    if line.startswith(("jam ", "torchrun "))
]
# Left out they are nothing: no limit, no guess, or the other of two.
NO_DEFAULT = {"config", "steps", "epochs", "out", "json"}


@pytest.mark.parametrize(("command", "line"), EXAMPLES, ids=[line for _, line in EXAMPLES])
def test_every_example_is_a_call(monkeypatch: pytest.MonkeyPatch, command: str, line: str) -> None:
    monkeypatch.chdir(ROOT)  # where the recipes are
    words = shlex.split(line.split(" > ")[0])
    called = words[words.index("jam.cli" if words[0] == "torchrun" else "jam") + 1 :]
    assert parse(called)[0] == called[0] and (called[0] == command or command == "convert-tokenizer")


@pytest.mark.parametrize("command", SUMMARIES)
def test_every_option_by_its_name_in_the_help(command: str) -> None:
    """Each is known by the name that the help shows, and says what it is when it is left out."""
    parser = COMMANDS[command].parser()
    shown = set(re.findall(r"^  --([a-z0-9-]+)", parser.format_help(), re.MULTILINE))
    assert {name.replace("-", "_") for name in shown if name != "sources"} <= parser.options.keys()
    entries = re.split(r"\n  (?=-)", " ".join(parser.format_help().split("\n\n")))
    texts = {match[1]: " ".join(entry.split()) for entry in entries if (match := re.match(r"--([a-z0-9-]+)", entry))}
    for name, action in parser.options.items():
        if action.required or action.nargs == 0 or name in NO_DEFAULT or action.default in ([], {}, ""):
            continue
        assert "default" in texts[name.replace("_", "-")], name


def test_choices_and_defaults_are_shown() -> None:
    text = " ".join(COMMANDS["generate"].parser().format_help().split())
    assert "--guidance-schedule {constant,linear,cosine}" in text and "--dtype {float32,bfloat16,float16}" in text
    text = " ".join(COMMANDS["train"].parser().format_help().split())
    assert "peak learning rate; default: 3e-05" in text and "--checkpoint-every CHECKPOINT_EVERY" in text
    assert "train on the causally masked objective; in messages, spans are within the answer; default: true" in text


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (["eval", "m", "d.jsonl", "--batch-size", "0"], "--batch-size is 0; it must be 1 or more"),
        (["verify", "m", "--tolerance", "-1"], "tolerance is -1.0; it must be 0 or more"),
        (["demo", "--prompts", "0"], "--prompts is 0; it must be 1 or more"),
        (["convert-documents", "a", "--recipe", "text", "--out", "o", "--documents", "0"], "documents is 0"),
        (["convert-documents", "a", "--recipe", "howto", "--out", "o", "--most-images", "-1"], "most_images is -1"),
        (["export", "runs", "--out", "."], ". exists; choose another --out"),
    ],
)
def test_a_number_that_cannot_be_is_refused_at_once(
    call: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(call) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"jam {call[0]}: ") and message in line


def test_the_last_line_names_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not what was left out on the way."""
    monkeypatch.chdir(tmp_path)
    records = [{"text": "A red house."}, {"title": "nothing to read"}]
    Path("raw.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert main(["convert-documents", "raw.jsonl", "--recipe", "text", "--out", "texts.jsonl"]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("left out: 1 x ") and last == "texts.jsonl: 1 documents"
