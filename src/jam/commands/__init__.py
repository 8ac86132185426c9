"""The commands, one file each: arguments, examples, and a `run` that calls the library."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from jam.commands.arguments import read_arguments, unknown

GROUPS = {
    "make": {
        "fuse": "fuse a language model and an image-token model into one",
        "demo": "the whole story on built-in tiny parents",
    },
    "train": {
        "prepare": "turn documents into token shards",
        "plan": "say what a run needs: parameters, memory, FLOPs, days, and whether it fits",
        "train": "align or instruct-tune a fused model by a recipe",
        "export": "make a model folder of a checkpoint of a run",
        "train-tokenizer": "train an image tokenizer on pictures",
    },
    "use": {
        "generate": "answer a question with an illustrated document",
        "fill": "fill the gaps of a document, texts or pictures, from both sides",
    },
    "measure": {
        "verify": "rerun both parents and show what a fused model kept of them",
        "eval": "measure perplexity by modality",
    },
    "convert": {
        "convert-documents": "turn captions, texts, LIMA or how-to articles into documents",
        "convert-tokenizer": "make an image tokenizer folder of vqgan.ckpt or of a whole checkpoint",
    },
}
LONGEST_NAME = 200  # characters of a file's name in a message
SUMMARIES = {name: summary for group in GROUPS.values() for name, summary in group.items()}


class _Commands:
    """Commands by name, imported on use: a command does not wait for other commands' imports."""

    def __getitem__(self, name: str) -> Any:
        return importlib.import_module(f"jam.commands.{name.replace('-', '_')}")


COMMANDS = _Commands()


def parse(arguments: Sequence[str]) -> tuple[str, Any]:
    """The command's name and settings. Raises ValueError for an unknown name, with the nearest known name."""
    name, *rest = arguments
    if name not in SUMMARIES:
        raise ValueError(unknown(name, list(SUMMARIES), "option" if name.startswith("-") else "command"))
    command = COMMANDS[name]
    return name, read_arguments(command.parser(), rest, getattr(command, "RECIPE", False))


def told(error: Exception) -> str:
    """The message of a failed command, in one line."""
    from jam.checkpoints.folders import is_disk_full

    if isinstance(error, OSError) and is_disk_full(error):
        where = f"cannot write {error.filename}; " if error.filename else ""
        return f"the disk is full: {where}make room or choose another place"
    if isinstance(error, OSError) and len(str(error.filename or "")) > LONGEST_NAME:
        return f"{error.strerror}: {str(error.filename)[:LONGEST_NAME]!r}..."
    return " ".join(str(error).splitlines())  # names may contain line ends


def overview() -> str:
    width = max(map(len, SUMMARIES))
    lines = []
    for group, commands in GROUPS.items():
        lines += [f"{group}:", *(f"  jam {name:<{width}}  {summary}" for name, summary in commands.items()), ""]
    return "\n".join(
        [
            "jam fuses two pretrained transformers into one model that writes illustrated documents.",
            "",
            *lines,
            "`jam COMMAND --help` shows a command's options with examples; `jam --version` says the version.",
        ]
    )
