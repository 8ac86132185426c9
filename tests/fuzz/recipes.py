"""Recipes and command lines: what is wrong is said before any work begins."""

from __future__ import annotations

import json
import random
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from fuzz.mutations import BYTES, deep, odd
from fuzz.outcomes import Told, command
from fuzz.targets import Case, Target
from jam.commands import COMMANDS, SUMMARIES
from jam.fusion import FuseConfig
from jam.tokenizer_training import TokenizerConfig
from jam.training import TrainConfig

BASES: dict[str, tuple[type, dict[str, Any]]] = {
    "train": (TrainConfig, {"model": "none", "out": "run", "sources": [{"path": "s", "weight": 1}], "steps": 9}),
    "plan": (TrainConfig, {"model": "none", "sources": [{"path": "s"}], "steps": 9}),
    "fuse": (FuseConfig, {"text": "none", "image": "none2", "out": "fused"}),
    "train-tokenizer": (TokenizerConfig, {"out": "run", "sources": [{"path": "none"}]}),
}
# Arguments that a command needs; the files are not there, so no work begins.
CALLS: dict[str, list[str]] = {
    "train": ["--model", "none", "--out", "run", "--sources", '[{"path": "s"}]', "--steps", "9"],
    "plan": ["--model", "none", "--sources", '[{"path": "s"}]', "--steps", "9"],
    "fuse": ["--text", "none", "--image", "none2", "--out", "fused"],
    "train-tokenizer": ["--out", "run", "--sources", '[{"path": "none"}]'],
    "prepare": ["none.jsonl", "--model", "none", "--out", "shards"],
    "eval": ["none", "none.jsonl"],
    "verify": ["none"],
    "generate": ["none", "How?"],
    "fill": ["none", "none.jsonl"],
    "demo": ["--prompts", "0"],
    "convert-tokenizer": ["none.ckpt", "--out", "vq"],
    "convert-documents": ["none.jsonl", "--recipe", "text", "--out", "texts.jsonl"],
    "export": ["none", "--out", "model"],
}


class Recipes(Target):
    name = "recipes"

    def make(self, folder: Path) -> None:
        pass

    def case(self, rng: random.Random, place: Path) -> Case:
        return (self.recipe if rng.random() < 0.5 else self.call)(rng, place)

    def recipe(self, rng: random.Random, place: Path) -> Case:
        """A recipe with an odd value, or damaged as a file."""
        name = rng.choice(list(BASES))
        kind, values = BASES[name]
        key = rng.choice([field.name for field in fields(kind)])
        path = place / "recipe.yaml"
        value = odd(rng)
        try:
            text = yaml.safe_dump(values | {key: value}).encode()
        except (yaml.YAMLError, ValueError):
            text = json.dumps(values | {key: value}).encode()
        if rng.random() < 0.2:
            text = rng.choice([*(lambda change=change: change(text, rng) for change in BYTES.values()), bomb, twice])()
        path.write_bytes(text)
        return Case(f"jam {name} recipe.yaml, {key}: {value!r:.80}", lambda: self.run(name, path), ())

    def call(self, rng: random.Random, place: Path) -> Case:
        """A command line with an odd value, an option that there is none of, or arguments in another order."""
        name = rng.choice(list(SUMMARIES))
        arguments = list(CALLS[name])
        option = rng.choice(sorted(COMMANDS[name].parser().options.keys() - {"help"}))
        value = odd(rng)
        text = value if isinstance(value, str) else json.dumps(deep(50, rng) if value is None else value)
        text = text.replace("\0", "").replace("\ud800", "")
        match rng.randrange(5):
            case 0:
                arguments = [f"--{option}={text}", *arguments]  # in front: a demo of no questions stays one
            case 1:
                arguments.insert(rng.randrange(len(arguments) + 1), text)
            case 2:
                rng.shuffle(arguments)
            case _:
                arguments = [f"--{option.replace('_', '-')}", text, *arguments]
        return Case(f"jam {name} {' '.join(arguments)!r:.300}", lambda: self.run(name, *arguments), ())

    def run(self, name: str, *arguments: object) -> None:
        """Raises Told unless the command is called for help; none can do its work."""
        try:
            command(name, *arguments)
        except SystemExit as end:  # --help
            if end.code:
                raise Told("ended by the parser itself, with the exit status of argparse\n") from None


def bomb() -> bytes:
    """A list of lists of lists, each of which is an alias of the one before."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]" for number in range(1, 12)]
    return "\n".join([*lines, "sources: *a11"]).encode()


def twice() -> bytes:
    return b"steps: 1\nsteps: 2\n"
