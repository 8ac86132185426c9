"""What a run writes down: one JSON line a step, and the same for TensorBoard."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from jam.checkpoints.folders import write_text
from jam.files import parse_json

RECORDS = "metrics.jsonl"


class Records:
    """The records of a run that has come to `step`; those of later steps are dropped, since the steps come again.

    Args:
        folder: of the run; None: nothing is written down (a process that is not the first).
    """

    def __init__(self, folder: Path | None, step: int) -> None:
        self.file: Any = None
        if folder is None:
            return
        path = folder / RECORDS
        if path.exists():
            kept = [
                line for line in path.read_text(errors="replace").splitlines(keepends=True) if _step_of(line) <= step
            ]
            write_text(path, "".join(kept))
        self.file = path.open("a")
        self.board = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def write(self, values: dict[str, Any]) -> None:
        if self.file is None:
            return
        self.file.write(json.dumps(values) + "\n")
        self.file.flush()
        for key, value in values.items():
            if key != "step" and isinstance(value, int | float):
                self.board.add_scalar(key, value, values["step"])

    def close(self) -> None:
        if self.file is None:
            return
        with suppress(OSError):  # `write` has flushed every line, or raised
            self.file.close()
        with suppress(OSError):
            self.board.close()


def _step_of(line: str) -> float:
    """The step of a record; of one that a kill has cut, or that is damaged, later than all."""
    try:
        return float(parse_json(line, RECORDS)["step"])
    except (ValueError, TypeError, KeyError):
        return float("inf")
