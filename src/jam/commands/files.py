"""Files that commands are given, and documents that they leave out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jam.console import Console


def say_left_out(console: Console, reasons: Sequence[str]) -> None:
    """Name every document that is not used, and how many there are."""
    for reason in reasons:
        console.print(f"left out: {reason}", soft_wrap=True, markup=False)
    if reasons:
        console.print(f"{len(reasons)} documents were left out: see docs/data.md, Too long")


def require_folder_of(path: Path, option: str) -> None:
    """Raises ValueError if a file cannot be written for want of its folder: known before hours of work, not after."""
    if not path.parent.is_dir():
        raise ValueError(f"{option} {path}: there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise ValueError(f"{option} {path}: this is a folder; name a file")
