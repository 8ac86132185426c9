"""What a run writes down: one JSON line a step, and the same for TensorBoard."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from jam.files import open_regular, parse_json, write_text

RECORDS = "metrics.jsonl"
VALIDATION = "validation_"  # begins the names of a validation's figures


class Records:
    """The records of a run that has come to `step`; those of what comes again are dropped: later steps, to begin with.

    Args:
        folder: of the run; None: nothing is written down (a process that is not the first).
        validates: the validation of `step`, too, comes again.
    """

    def __init__(self, folder: Path | None, step: int, validates: bool = False) -> None:
        self.file: Any = None
        if folder is None:
            return
        path = folder / RECORDS
        if os.path.lexists(path):
            last = step - 0.5 if validates else step
            with open_regular(path) as file:
                lines = file.read().decode(errors="replace").splitlines(keepends=True)
            kept = [line for line in lines if _place_of(line) <= last]
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
        self.file = None
        with suppress(OSError):
            self.board.close()


def _place_of(line: str) -> float:
    """The step of a record, less a half where it is not of a validation.

    Of one that a kill has cut, or that is damaged, later than all.
    """
    try:
        record = parse_json(line, RECORDS)
        step = float(record["step"])
    except (ValueError, TypeError, KeyError):
        return float("inf")
    return step - 0.5 * (not any(key.startswith(VALIDATION) for key in record))
