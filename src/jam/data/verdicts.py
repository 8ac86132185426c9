"""Which files beside a source a preparation's rejects depend on: a corrected picture is judged again.

A source that changed is read from its beginning anyway; a picture beside it may be put right, or come, while the source
stays. So a run that goes on looks at those files first, and goes back to the block of the first one that is not as it
was.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jam.files import FileError, open_regular, parse_json, write_text

Identities = dict[str, list[int] | None]  # of files: bytes and date; None: there is none


def identities(paths: list[str]) -> Identities:
    return {path: _identity(path) for path in paths}


class Verdicts:
    """The file that keeps them; a line is a block: how far the run was before it, and its rejects' files.

    Args:
        path: of the file; what is there is gone on with.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, before: dict[str, Any], files: Identities) -> None:
        """Note a block; `before` is what `go_back` returns when one of the files changes."""
        with self.path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"before": before, "files": files}) + "\n")

    def go_back(self, state: dict[str, Any]) -> dict[str, Any]:
        """The state to go on from: `state`, or that before the first block with a file that changed since."""
        for block in self._blocks(state):
            if any(_identity(path) != identity for path, identity in block["files"].items()):
                return block["before"]
        return state

    def forget(self, state: dict[str, Any]) -> None:
        """Drop blocks that are not done in a state."""
        kept = "".join(json.dumps(block) + "\n" for block in self._blocks(state))
        if os.path.lexists(self.path):
            write_text(self.path, kept)

    def _blocks(self, state: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Blocks that are done in a state."""
        if not os.path.lexists(self.path):
            return
        with open_regular(self.path) as file:
            lines = file.read().decode(errors="replace").splitlines()
        for line in lines:
            try:
                block = parse_json(line, str(self.path))
            except FileError:  # the last one, of a run that was killed
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
