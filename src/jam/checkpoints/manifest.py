"""`manifest.json`: what a model folder is, what it was made from, and how its ids are to be read."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from jam.checkpoints.folders import write_json

STAGES = ("parent", "fused", "aligned", "instructed")
FILE_NAME = "manifest.json"


def version() -> str:
    """Version of this package."""
    try:
        return metadata.version("jam-fusion")
    except metadata.PackageNotFoundError:  # run from a source tree
        return "unknown"


@dataclass
class Manifest:
    """What stands in `manifest.json`.

    Args:
        stage: one of `STAGES`.
        method: how it was fused ("uniform", "width", "cross"); None for a parent.
        options: the options it was made with.
        vocabulary: `Vocabulary.to_dict()`; None when the folder doesn't say.
        image_grid: image tokens as [height, width].
        rows: `ParentRows` as a dict, for single-stream models; the cross model's config has them per tower.
        ancestors: what it was made from, each {"role", "name", "source", "rows", "sha256", "architecture", "files"}.
            `files`: SHA-256 of every file; `sha256`: of these in order. With "revision" for a model of the hub, whose
            id is the name. `source`: hub id with revision, or folder, which in the file stands relative to the
            manifest's, so that no result carries a path of the machine where it was made. `rows`: `ParentRows` as a
            dict.
        notes: sentences for the reader.
        jam_version: version of this package that wrote it.
    """

    stage: str
    method: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    vocabulary: dict[str, Any] | None = None
    image_grid: list[int] | None = None
    rows: dict[str, Any] | None = None
    ancestors: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    jam_version: str = field(default_factory=version)

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ValueError(f"manifest: stage is {self.stage!r}; it must be one of {', '.join(STAGES)}")

    def save(self, folder: str | Path, place: str | Path | None = None) -> None:
        """Write it into `folder`, which will lie at `place` (default: where it is)."""
        home = os.path.realpath(place or folder)
        ancestors = [
            one | {"source": os.path.relpath(one["source"], home)} if os.path.isabs(one.get("source", "")) else one
            for one in self.ancestors
        ]
        write_json(Path(folder) / FILE_NAME, asdict(self) | {"ancestors": ancestors})

    @classmethod
    def load(cls, folder: str | Path) -> Manifest:
        """Read the manifest of a folder. Raises ValueError when there is none, or when it can't be read."""
        manifest = cls.find(folder)
        if manifest is None:
            raise ValueError(f"{folder} has no {FILE_NAME}: {_what_it_is(Path(folder))}")
        return manifest

    @classmethod
    def find(cls, folder: str | Path) -> Manifest | None:
        """Like `load`, but None for a folder without manifest, such as a parent from elsewhere."""
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is no valid JSON: {error}") from None
        known = {entry.name for entry in fields(cls)}
        if "stage" not in values or (unknown := sorted(values.keys() - known)):
            problem = f"unknown keys {', '.join(unknown)}" if "stage" in values else "'stage' is missing"
            raise ValueError(f"{path} is no manifest of this version of jam: {problem}")
        for one in values.get("ancestors", ()):
            if one.get("source", "").startswith(os.pardir):
                one["source"] = os.path.normpath(os.path.join(os.path.realpath(folder), one["source"]))
        return cls(**values)


def _what_it_is(folder: Path) -> str:
    """What a folder without manifest is instead, and what to do."""
    if (folder / "model" / FILE_NAME).is_file():
        return f"it is a run; its model is {folder / 'model'}"
    if (folder / "checkpoints").is_dir():
        return "it is a run that has not ended; `jam export` makes a model of its last checkpoint"
    if not folder.is_dir():
        return "there is no such folder"
    return "it is no model of jam; make one with `jam fuse`"
