"""The picture files that a preparation's rejects depend on, so that a run judges a corrected picture again.

A changed source is read from its beginning. A picture file may change, or appear, while its source stays. A resumed run
therefore checks these files first, and goes back to the block of the first changed file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jam.files import FileError, open_regular, parse_json, write_text

Identities = dict[str, list[int] | None]  # bytes and date of files by path, or None for a missing file


def identities(paths: list[str]) -> Identities:
    return {path: _identity(path) for path in paths}


class Verdicts:
    """The file with a line for each block: the run's state before the block, and the files of the block's rejects.

    Args:
        path: path of the file; existing lines stay.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, before: dict[str, Any], files: Identities) -> None:
        """Append a block; `before` is the state that `go_back` returns if one of `files` changes."""
        with self.path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"before": before, "files": files}) + "\n")

    def go_back(self, state: dict[str, Any]) -> dict[str, Any]:
        """The state to resume from: `state`, or the state before the first block with a changed file."""
        for block in self._blocks(state):
            if any(_identity(path) != identity for path, identity in block["files"].items()):
                before: dict[str, Any] = block["before"]
                return before
        return state

    def forget(self, state: dict[str, Any]) -> None:
        """Drop the blocks that `state` does not include."""
        kept = "".join(json.dumps(block) + "\n" for block in self._blocks(state))
        if os.path.lexists(self.path):
            write_text(self.path, kept)

    def _blocks(self, state: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The blocks that `state` includes."""
        if not os.path.lexists(self.path):
            return
        with open_regular(self.path) as file:
            lines = file.read().decode(errors="replace").splitlines()
        for line in lines:
            try:
                block = parse_json(line, str(self.path))
            except FileError:  # the last line of a run that was killed
                return
            if block["before"]["seen"] >= state["seen"]:
                return
            yield block


def _identity(path: str) -> list[int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns]
