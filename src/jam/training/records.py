"""Records of a run: a JSON line for each step, and the same figures for TensorBoard."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from jam.files import open_regular, parse_json, write_text

RECORDS = "metrics.jsonl"
VALIDATION = "validation_"  # prefix of the names of a validation's figures


class Records:
    """The records of a run at `step`; records of later steps, which the run repeats, are dropped.

    Args:
        folder: folder of the run; None: write nothing (all processes but the first).
        validates: True if the run repeats the validation of `step`, too.
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
    """The step of a validation's record, or half a step less for other records.

    A record that was cut by a kill, or is damaged, counts as later than all others.
    """
    try:
        record = parse_json(line, RECORDS)
        step = float(record["step"])
    except (ValueError, TypeError, KeyError):
        return float("inf")
    return step - 0.5 * (not any(key.startswith(VALIDATION) for key in record))
