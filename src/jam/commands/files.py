"""Checks of commands' output files, and messages about left-out documents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jam.console import Console


def say_left_out(console: Console, reasons: Sequence[str]) -> None:
    """Print the reason for every left-out document, and their number."""
    for reason in reasons:
        console.print(f"left out: {reason}", soft_wrap=True, markup=False)
    if reasons:
        console.print(f"{len(reasons)} documents were left out: see docs/data.md, Too long")


def require_folder_of(path: Path, option: str) -> None:
    """Raises ValueError if a file's folder is missing or the file is a folder, for a check before hours of work."""
    if not path.parent.is_dir():
        raise ValueError(f"{option} {path}: there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise ValueError(f"{option} {path}: this is a folder; name a file")
