"""Folders that were changed by hand, with checksums that say they were written so."""

from __future__ import annotations

import json
from pathlib import Path

from jam.checkpoints.checksums import OTHERS, OWN, checksums_in, write_sealed
from jam.checkpoints.manifest import UNSEALED


def reseal(folder: Path) -> None:
    """Compute the checksums of a model folder's manifest anew."""
    _reseal(folder / "manifest.json", UNSEALED)


def reseal_shards(folder: Path) -> None:
    """The same of a folder of token shards."""
    _reseal(folder / "shards.json", ("shards.json",))


def _reseal(path: Path, left_out: tuple[str, ...]) -> None:
    values = json.loads(path.read_text())
    values.pop(OWN, None)
    write_sealed(path, values | {OTHERS: checksums_in(path.parent, left_out)})
