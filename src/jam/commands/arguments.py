"""Arguments through jsonargparse: options with dashes, recipes, and a suggestion for every unknown name."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace


class Parser(ArgumentParser):
    """A parser that raises ValueError, knows no abbreviations and shows options with dashes."""

    def __init__(self, command: str, description: str, examples: str) -> None:
        super().__init__(
            prog=f"jam {command}",
            description=description,
            epilog="examples:\n" + "\n".join(f"  {line}" for line in examples.strip().splitlines()),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            exit_on_error=False,
            allow_abbrev=False,
            print_config=None,
        )

    def format_help(self) -> str:
        return re.sub(r"--[a-z_]+", lambda match: match.group().replace("_", "-"), super().format_help())

    def names(self) -> list[str]:
        """Every option, as in a recipe (underscores, no dashes in front)."""
        options = [option for action in self._actions for option in action.option_strings]
        return sorted(option[2:] for option in options if option.startswith("--"))


def read_arguments(parser: Parser, arguments: Sequence[str], recipe: bool = False) -> Namespace:
    """Parse; with `recipe` the first argument may be a YAML file whose keys are options.

    Raises:
        ValueError: an unknown option or recipe key (with the nearest known one), or a value that does not fit.
    """
    normal = [_underscores(argument) for argument in arguments]
    if recipe and normal and not normal[0].startswith("-"):
        check_recipe(parser, Path(normal[0]))
        normal = ["--config", *normal]
    for argument in normal:
        name = argument[2:].partition("=")[0]
        if argument.startswith("--") and name.isidentifier() and name not in parser.names():
            raise ValueError(unknown(name, parser.names(), "option", dashes=True))
    try:
        settings = parser.parse_args(normal)
    except argparse.ArgumentError as error:
        message = " ".join(str(error).split())
        raise ValueError(f"{message}; see `{parser.prog} --help`") from None
    return parser.instantiate(settings) if hasattr(parser, "instantiate") else parser.instantiate_classes(settings)


def check_recipe(parser: Parser, path: Path) -> None:
    """Raises ValueError if the recipe is missing, no YAML mapping, or has keys that are no options."""
    if not path.is_file():
        raise ValueError(f"recipe {path} does not exist")
    try:
        recipe: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"recipe {path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(recipe, dict):
        raise ValueError(f"recipe {path} must be a mapping of options to values")
    for key in recipe:
        if key not in parser.names():
            raise ValueError(f"recipe {path}: {unknown(str(key), parser.names(), 'key')}")


def unknown(name: str, known: Sequence[str], what: str, dashes: bool = False) -> str:
    """ "unknown option --warmupsteps; did you mean --warmup-steps?" """

    def show(word: str) -> str:
        return "--" + word.replace("_", "-") if dashes else word

    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {show(near[0])}?" if near else f"; known: {', '.join(map(show, known))}"
    return f"unknown {what} {show(name)}{hint}"


def _underscores(argument: str) -> str:
    name, equals, value = argument.partition("=")
    return name.replace("-", "_").replace("__", "--", 1) + equals + value if argument.startswith("--") else argument


def add_placement(parser: Parser) -> None:
    """``--device`` and ``--dtype``, wherever a model is loaded."""
    parser.add_argument("--device", type=str | None, default=None, help="cpu, cuda, cuda:1, ...; default: a GPU if any")
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        default=None,
        help="data type of the weights in memory; default: float32 on the CPU, else as stored",
    )
