"""Every key of every recipe and every option of every command with values that it cannot have: one line, no jargon."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml

from fuzz.outcomes import JARGON
from fuzz.recipes import BASES, CALLS
from jam.checked import fits
from jam.commands import COMMANDS, SUMMARIES
from jam.commands.arguments import Parser, read_arguments
from jam.commands.plan import OWN
from jam.fusion import FuseConfig
from jam.generation import GenerationSettings
from jam.tokenizer_training import TokenizerConfig
from jam.training import DataSource, TrainConfig

DEEP = json.loads("[" * 60 + "]" * 60)
BAD: list[Any] = [
    None,
    "",
    "x",
    float("inf"),
    float("nan"),
    10**30,
    -(10**30),
    [],
    [None],
    ["x"],
    {},
    {"x": 1},
    DEEP,
    True,
    2.5,
]
KEYS = [
    (command, field.name)
    for command, (kind, _) in BASES.items()
    for field in fields(kind)
    if not (command == "plan" and field.name in ("out", "resume"))
]
KEYS += [("plan", name) for name in OWN if name != "config"]


@cache
def parser(command: str) -> Parser:
    return COMMANDS[command].parser()


def parse(arguments: list[str]) -> tuple[str, Any]:
    command, *rest = arguments
    return command, read_arguments(parser(command), rest, getattr(COMMANDS[command], "RECIPE", False))


def message_of(arguments: list[str]) -> str:
    """What `jam ARGUMENTS` answers before any work; "" where it would begin."""
    try:
        command, settings = parse(arguments)
        if hasattr(COMMANDS[command], "read_config") and command != "plan":
            COMMANDS[command].read_config(settings)
    except ValueError as error:
        return str(error)
    return ""


ALL = pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["one value", "all"])


def chosen(values: Sequence[Any], name: str, every: bool) -> Sequence[Any]:
    """All values, or one of them, which depends on the name."""
    return values if every else [values[sum(name.encode()) % len(values)]]


@ALL
@pytest.mark.parametrize(("command", "key"), KEYS, ids=[f"{command} {key}" for command, key in KEYS])
def test_a_key_of_a_recipe(tmp_path: Path, command: str, key: str, every: bool) -> None:
    """A value of another type is refused, with the key named; and no other error comes of any value."""
    kind, values = BASES[command]
    hint = get_type_hints(kind).get(key)
    path = tmp_path / "recipe.yaml"
    for value in chosen(BAD, key, every):
        path.write_text(yaml.safe_dump(values | {key: value}))
        message = message_of([command, str(path)])
        assert "\n" not in message and not JARGON.search(message), message
        if hint is not None and not fits(hint, value) and not (key in ("sources", "validation") and value == []):
            assert f"recipe {path}: {key}" in message, (value, message)


def options() -> list[tuple[str, str]]:
    return [(command, name) for command in SUMMARIES for name in sorted(parser(command).options.keys() - {"help"})]


OTHERS = (None, "", "x", float("inf"), 10**30, [None], {"x": 1}, DEEP, True, 2.5, "[", "2026-01-01", "&a [*a]")


@ALL
@pytest.mark.parametrize(("command", "option"), options(), ids=[" --".join(one) for one in options()])
def test_an_option_of_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, option: str, every: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = f"--{option.replace('_', '-')}"
    for value in chosen(OTHERS, option, every):
        text = value if isinstance(value, str) else json.dumps(value)
        for given in ([shown, text] if text else [f"{shown}="],):
            message = message_of([command, *CALLS[command], *given])
            assert "\n" not in message and not JARGON.search(message), (given, message)
            assert "YAML" not in message or text[:1] in "[{&", (given, message)


def test_what_fits_goes_through(tmp_path: Path) -> None:
    """As it did before values were judged: numbers in every form, empty ones, paths, lists."""
    given = ["--lr", "1e-3", "--steps", "1_000", "--lr-factors", "{cross: 10}", "--device", "null", "--cm3", "false"]
    given += ["--checkpoint-every=epoch", "--validation", "[a, b]", "--sources", "[{path: x, weight: 2}]"]
    config = COMMANDS["train"].read_config(parse(["train", "--model", "5", "--out", "true", *given])[1])
    assert (config.lr, config.steps, config.lr_factors, config.device, config.cm3) == (
        1e-3,
        1000,
        {"cross": 10},
        None,
        False,
    )
    assert (config.model, config.out, config.validation) == ("5", "true", ["a", "b"])
    assert config.sources == [DataSource("x", 2)] and config.checkpoint_every == "epoch"


@pytest.mark.parametrize("kind", [TrainConfig, TokenizerConfig, FuseConfig])
def test_a_setting_in_python(kind: type) -> None:
    """The same check, of the class itself."""
    values = next(values for known, values in BASES.values() if known is kind)
    if kind is TrainConfig:
        values = values | {"out": "run", "sources": [DataSource("s")]}
    elif kind is TokenizerConfig:
        from jam.tokenizer_training.config import PictureSource

        values = values | {"sources": [PictureSource("s")]}
    hints = get_type_hints(kind)
    for field in fields(kind):
        for value in BAD:
            if fits(hints[field.name], value):
                continue
            with pytest.raises(ValueError, match=f"^{field.name} is ") as caught:
                kind(**values | {field.name: value})
            assert not JARGON.search(str(caught.value))


@pytest.mark.parametrize("name", [field.name for field in fields(GenerationSettings)])
def test_a_setting_of_generation(name: str) -> None:
    for value in (*BAD, -1, object()):
        try:
            GenerationSettings(**{name: value})
        except ValueError as error:
            assert name in str(error) and "\n" not in str(error)
