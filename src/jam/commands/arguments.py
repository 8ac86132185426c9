"""Arguments by jsonargparse: options with dashes, recipes, and one clear line for every mistake.

The message about an unknown option or key, at any depth, names the nearest known word, which jsonargparse does not do.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser, Namespace

from jam.checked import fits, kind, require_kind, shown
from jam.files import FileError, parse_yaml, read_yaml

MOST_DIGITS = 1000  # of a number on the command line


class Parser(ArgumentParser):
    """A parser that shows options with dashes; `make_parser` creates it (jsonargparse creates some of its own)."""

    # From an option to its alternative: the option on the command line unsets the alternative in the recipe.
    alternatives: Mapping[str, str] = {}

    def format_help(self) -> str:  # type: ignore[override]
        return re.sub(r"--[a-z0-9_]+", lambda match: match.group().replace("_", "-"), super().format_help())

    @property
    def options(self) -> dict[str, argparse.Action]:
        """All options by their names in a recipe (underscores, no leading dashes)."""
        names = [(name, action) for action in self._actions for name in action.option_strings]
        return {name[2:]: action for name, action in names if name.startswith("--") and name[2:].isidentifier()}

    @property
    def recipe_keys(self) -> list[str]:
        return sorted(self.options.keys() - {"help", "config"})


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Help with the default of an option whose help does not name it, and with choices of an optional option."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        text = text if text.endswith("...") else text.removesuffix(".")
        if "default" in text or not action.option_strings or action.required or action.nargs == 0:
            return text
        if default in (None, argparse.SUPPRESS, "", [], {}):
            return text
        shown = str(default).lower() if isinstance(default, bool) else str(default)
        return f"{text}; default: {shown}"

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        kinds = [kind for kind in get_args(getattr(action, "_typehint", None)) if kind is not NoneType]
        if len(kinds) == 1 and get_origin(kinds[0]) is Literal:
            return f"{{{','.join(map(str, get_args(kinds[0])))}}}"
        return super()._get_default_metavar_for_optional(action)


def make_parser(command: str, description: str, examples: str) -> Parser:
    """The parser of a command; abbreviated options are unknown options."""
    return Parser(
        prog=f"jam {command}",
        description=description,
        epilog="examples:\n" + "\n".join(f"  {line}" for line in examples.strip().splitlines()),
        formatter_class=_Formatter,
        exit_on_error=False,
        allow_abbrev=False,
        print_config=None,
    )


def add_placement(parser: Parser, dtype: bool = True, device_map: bool = False) -> None:
    """Add ``--device`` and ``--dtype`` to a command that loads a model, ``--device-map`` to one that only runs it."""
    parser.add_argument("--device", type=str | None, default=None, help="cpu, cuda, cuda:1, ...; default: a GPU if any")
    if dtype:
        parser.add_argument(
            "--dtype",
            type=Literal["float32", "bfloat16", "float16"] | None,
            default=None,
            help="data type of the weights in memory; default: float32 on the CPU, else as stored",
        )
    if device_map:
        parser.add_argument(
            "--device_map",
            type=Literal["auto"] | None,
            default=None,
            help="auto: layers that do not fit on the device wait in host memory or on disk; default: none does",
        )


def add_check(parser: Parser) -> None:
    """Add ``--check`` to a command that loads a model for minutes, not for days."""
    parser.add_argument("--check", action="store_true", help="compare the weights with their checksums first")


def add_media(parser: Parser) -> None:
    """Add ``--allowed-media-path`` to a command that reads documents."""
    help = "another folder that may hold files of pictures; default: only the folder of the documents; /: any folder"
    parser.add_argument("--allowed_media_path", type=Path | None, default=None, help=help)


def add_speed(parser: Parser) -> None:
    """Add ``--int8`` and ``--compile`` to a command that generates."""
    parser.add_argument("--int8", action="store_true", help="a quarter of the memory of float32 for layers; inexact")
    parser.add_argument("--compile", action="store_true", help="compile the layers first, for many documents")


def require(fits: bool, option: str, value: Any, must_be: str) -> None:
    """Raises ValueError unless an option's value `fits`."""
    if not fits:
        raise ValueError(f"{option} is {value}; it must be {must_be}")


def read_arguments(parser: Parser, arguments: Sequence[str], recipe: bool = False) -> Namespace:
    """The parsed arguments; with `recipe`, the first argument may be a YAML file whose keys are options.

    Raises:
        ValueError: an unknown option or recipe key (with the nearest known word), or a value that does not fit.
    """
    for argument in arguments:
        text = argument.partition("=")[2] if argument.startswith("--") else argument
        if re.fullmatch(rf"[+-]?[0-9_]{{{MOST_DIGITS},}}", text):  # a number for YAML, but not for Python
            raise ValueError(f"{shown(text)} is not a number that can be read: it has {MOST_DIGITS} digits or more")
    normal = [_underscores(argument) for argument in arguments]
    if recipe and normal and not normal[0].startswith("-"):
        normal = ["--config", *normal]
    normal = _lists(parser, normal)
    present = {argument[2:].partition("=")[0] for argument in normal if argument.startswith("--")}
    for argument, following in zip(normal, [*normal[1:], "--"], strict=False):
        name, equals, value = argument[2:].partition("=")
        if not argument.startswith("--") or not name or " " in name:  # with a space: a text that begins with dashes
            continue
        if name not in parser.options:
            raise ValueError(unknown(name, list(parser.options), "option", dashes=True))
        if not equals and following.startswith("--"):
            continue
        value = value if equals else following
        if name == "config":
            check_recipe(parser, Path(value))
        check_argument(_hint(parser, name), value, _shown(parser, name))
    replaced = [second for first, second in parser.alternatives.items() if first in present and second not in present]
    try:
        settings: Namespace = parser.instantiate(parser.parse_args([*normal, *(f"--{name}=null" for name in replaced)]))
        return settings
    except argparse.ArgumentError as error:
        raise ValueError(f"{_readable(parser, str(error))}; see `{parser.prog} --help`") from None


def check_recipe(parser: Parser, path: Path) -> None:
    """Raises ValueError if the recipe is missing, is no YAML mapping, or has keys or values that no option has."""
    if not path.is_file():
        raise ValueError(f"recipe {path} does not exist")
    recipe: Any = read_yaml(path)
    if not isinstance(recipe, dict):
        raise ValueError(f"recipe {path} must be a mapping of options to values")
    for key, value in recipe.items():
        if key not in parser.recipe_keys:
            raise ValueError(f"recipe {path}: {unknown(str(key), parser.recipe_keys, 'key')}")
        check_value(_hint(parser, key) or bool, value, f"recipe {path}: {key}")  # options without a type are switches


def check_argument(hint: Any, text: str, where: str) -> None:
    """Raises ValueError unless `text`, from the command line, is a value of type `hint`; None: any text is."""
    if hint is None or fits(hint, text):
        return
    try:
        value = parse_yaml(text, where) if text.strip() else text  # YAML would read an empty text as null
    except FileError:
        if text[:1] in ("[", "{"):
            raise
        value = text
    # The message shows a text or a YAML date as the user wrote it.
    check_value(hint, value if isinstance(value, list | dict | int | float | None) else text, where)


def check_value(hint: Any, value: Any, where: str) -> None:
    """Raises ValueError unless a value has type `hint`, with mappings for dataclasses; `where` names the value."""
    if not (entry_types := _dataclasses(hint)):
        require_kind(hint, value, where)
        return
    (entry_type,), hints = entry_types, get_type_hints(entry_types[0])
    if not isinstance(value, list):
        raise ValueError(f"{where} is {shown(value)}; it must be {kind(hint)}")
    for number, entry in enumerate(value, 1):
        if not isinstance(entry, dict):
            raise ValueError(f"{where}, entry {number} is {shown(entry)}; it must be a mapping of {', '.join(hints)}")
        for key in entry:
            if key not in hints:
                raise ValueError(f"{where}, entry {number}: {unknown(str(key), list(hints), 'key')}")
            require_kind(hints[key], entry[key], f"{where}, entry {number}: {key}")
        for field in fields(entry_type):
            if field.name not in entry and field.default is field.default_factory is MISSING:
                raise ValueError(f"{where}, entry {number}: {field.name} is missing")


def unknown(name: str, known: Sequence[str], what: str, dashes: bool = False) -> str:
    """A message: "unknown option --warmupsteps; did you mean --warmup-steps?"."""

    def show(word: str) -> str:
        return "--" + word.replace("_", "-") if dashes else word

    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {show(near[0])}?" if near else f"; known: {', '.join(map(show, known))}"
    return f"unknown {what} {show(name)}{hint}"


def _underscores(argument: str) -> str:
    name, equals, value = argument.partition("=")
    return name.replace("-", "_").replace("__", "--", 1) + equals + value if argument.startswith("--") else argument


def _lists(parser: Parser, arguments: Sequence[str]) -> list[str]:
    """The arguments, with the values of a list option, `--sources DIR[:WEIGHT] ...`, as a JSON list; JSON stays."""
    found: list[str] = []
    place = 0
    while place < len(arguments):
        name, equals, value = arguments[place].partition("=")
        end = place = place + 1
        while end < len(arguments) and not equals and not arguments[end].startswith("--"):
            end += 1
        values = [value] if equals else list(arguments[place:end])
        hint = _hint(parser, name[2:]) if name.startswith("--") else None
        if get_origin(hint) is not list or not values or values[0][:1] in ("[", ""):
            found.append(name + equals + value)
            continue
        entries = [_source(entry) if _dataclasses(hint) else entry for entry in values]
        found += [name, json.dumps(entries)]
        place = end
    return found


def _source(text: str) -> dict[str, Any]:
    """DIR or DIR:WEIGHT as in a recipe."""
    path, _, weight = text.rpartition(":")
    try:
        return {"path": path, "weight": float(weight)} if path else {"path": text}
    except ValueError:
        return {"path": text}


def _hint(parser: Parser, name: str) -> Any:
    """The type of an option, from jsonargparse; None if there is none."""
    return getattr(parser.options.get(name), "_typehint", None)


def _dataclasses(hint: Any) -> list[type]:
    return [kind for kind in get_args(hint) if isinstance(kind, type) and is_dataclass(kind)]


def _readable(parser: Parser, message: str) -> str:
    """argparse's message about missing or unexpected arguments, in one line and in our words."""
    message = " ".join(message.split())
    if missing := re.fullmatch(r"the following arguments are required: (.*)", message):
        return f"missing: {', '.join(_shown(parser, name) for name in missing[1].split(', '))}"
    if extra := re.fullmatch(r"unrecognized arguments: (.*)", message):
        return f"not expected: {extra[1]}" + ("; a recipe stands first" if "config" in parser.options else "")
    if wrong := re.fullmatch(r"argument --(\w+): (.*)", message):
        return f"{_shown(parser, wrong[1])}: {wrong[2]}"
    return message


def _shown(parser: Parser, name: str) -> str:
    """An argument's name as in `--help`."""
    return f"--{name.replace('_', '-')}" if name in parser.options else name.upper()
