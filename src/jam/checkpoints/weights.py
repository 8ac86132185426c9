"""Files of a folder's weights: a single file, or shards with an index; safetensors or (older ones) `.bin`."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from jam.files import FileError, read_json

SAFETENSORS, LEGACY = "model.safetensors", "pytorch_model.bin"


def has_weights(folder: str | Path) -> bool:
    return _entry(Path(folder)) is not None


def find_weights(folder: Path) -> tuple[Path, dict[str, str]]:
    """The single file, or the index and the name of each tensor's file.

    Raises:
        ValueError: there are no weights, the index is damaged, or files and index do not belong together.
    """
    entry = _entry(folder)
    if entry is None:
        raise ValueError(f"{folder} holds no weights: there is neither {SAFETENSORS} nor {LEGACY}, nor an index")
    if entry.suffix != ".json":
        return entry, {}
    weight_map = _weight_map(entry)
    _refuse_other_shards(entry, set(weight_map.values()))
    return entry, weight_map


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the tensors, in order of their names. Raises ValueError as `find_weights` does."""
    entry, weight_map = find_weights(folder)
    return [folder / name for name in sorted(set(weight_map.values()))] or [entry]


def damaged(path: Path, problem: str) -> FileError:
    return FileError(f"{path} is damaged: {problem}; fetch it again")


def few(names: Collection[str]) -> str:
    """The first names in sorted order, for a message."""
    listed = sorted(names)
    return ", ".join(listed[:4]) + (", ..." if len(listed) > 4 else "")


def _entry(folder: Path) -> Path | None:
    candidates = (SAFETENSORS, f"{SAFETENSORS}.index.json", LEGACY, f"{LEGACY}.index.json")
    return next((folder / name for name in candidates if (folder / name).is_file()), None)


def _weight_map(index: Path) -> dict[str, str]:
    found = read_json(index, remedy="fetch it again").get("weight_map")
    if not isinstance(found, dict) or not found:
        raise damaged(index, "it is no index of shards: it has no weight_map")
    for name in found.values():
        if not isinstance(name, str) or Path(name).name != name:
            raise damaged(index, f"it names {name!r:.80}, which is no file of this folder")
    return found


def _refuse_other_shards(index: Path, names: Collection[str]) -> None:
    """Raises ValueError if the index leaves out shards of its set, since it then belongs to other files."""
    pattern = re.compile(r"(.+)-\d{5}(-of-\d{5}\..+)")
    sets = {match.groups() for name in names if (match := pattern.fullmatch(name))}
    beside = [path.name for path in index.parent.iterdir() if path.name not in names]
    left_out = [name for name in beside if (match := pattern.fullmatch(name)) and match.groups() in sets]
    if left_out:
        raise ValueError(
            f"{index} does not name {few(left_out)}, a file beside it: the index is of other files; fetch it again"
        )
