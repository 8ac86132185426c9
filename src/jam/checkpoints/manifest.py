"""`manifest.json`: the stage of a model folder, its ancestors, and the meaning of its ids."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from jam.checked import check_fields
from jam.checkpoints import checksums
from jam.files import FileError, reading

STAGES = ("parent", "fused", "aligned", "instructed")
FILE_NAME = "manifest.json"
UNSEALED = (FILE_NAME, "README.md")  # files without a checksum: the manifest, and a text that users may edit
DEFAULTS = "generation_config.json"  # users may edit this file, too; `jam verify` alone compares it
SMALL = 2**26  # bytes; larger files, and the network's weights, are compared on request only


def version() -> str:
    """Version of this package."""
    try:
        return metadata.version("jam-fusion")
    except metadata.PackageNotFoundError:  # run from a source tree
        return "unknown"


@dataclass
class Manifest:
    """The contents of `manifest.json`.

    Args:
        stage: one of `STAGES`.
        method: fusion method ("uniform", "width", "cross"); None for a parent.
        options: options of the fusion or training.
        vocabulary: `Vocabulary.to_dict()`, or None if unknown.
        image_grid: image tokens as [height, width].
        rows: `ParentRows` as a dict, for single-stream models; the cross model's config has them per tower.
        ancestors: the models it was made from, each {"role", "name", "source", "rows", "sha256", "architecture",
            "files"}. `files`: SHA-256 of every file; `sha256`: hash of these in order. A model of the hub also has
            "revision", and its id as name. `source`: hub id with revision, or folder; the file has the folder relative
            to the manifest's, so that no result contains a path of a machine. `rows`: `ParentRows` as a dict.
        notes: sentences for the reader.
        jam_version: version of this package that wrote the manifest.
        checksums: CRC-32 of every other file by its relative path, filled in by `save`; empty in folders of earlier
            versions.
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
    checksums: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.stage not in STAGES:
            raise ValueError(f"manifest: stage is {self.stage!r}; it must be one of {', '.join(STAGES)}")

    def save(self, folder: str | Path, place: str | Path | None = None, known: Mapping[str, str] = {}) -> None:
        """Write the manifest into `folder`, as its last file.

        Args:
            place: later path of the folder; default: `folder`.
            known: checksums that need not be computed, also of files that do not exist yet.
        """
        home = os.path.realpath(place or folder)
        ancestors = [dict(ancestor) for ancestor in self.ancestors]
        for ancestor in ancestors:
            if os.path.isabs(ancestor.get("source", "")):
                ancestor["source"] = os.path.relpath(ancestor["source"], home)
        found = checksums.checksums_in(Path(folder), UNSEALED, known)
        values = asdict(self) | {"ancestors": ancestors, checksums.OTHERS: found}
        checksums.write_sealed(Path(folder) / FILE_NAME, values)

    @classmethod
    def load(cls, folder: str | Path) -> Manifest:
        """The manifest of a folder. Raises ValueError if there is none or it cannot be read."""
        manifest = cls.find(folder)
        if manifest is None:
            raise ValueError(f"{folder} has no {FILE_NAME}: {_what_it_is(Path(folder))}")
        return manifest

    @classmethod
    def find(cls, folder: str | Path) -> Manifest | None:
        """As `load`, but None for a folder without manifest, such as a downloaded parent."""
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            return None
        values = checksums.read_sealed(path, "get this folder anew")
        known = {entry.name for entry in fields(cls)}
        if "stage" not in values or (unknown := sorted(values.keys() - known)):
            problem = f"unknown keys {', '.join(unknown)}" if "stage" in values else "'stage' is missing"
            raise ValueError(f"{path} is no manifest of this version of jam: {problem}")
        with reading(path):
            manifest = cls(**values)
            for ancestor in manifest.ancestors:
                if (source := ancestor.get("source", "")).startswith(os.pardir):
                    ancestor["source"] = os.path.normpath(os.path.join(os.path.realpath(folder), source))
        return manifest

    def changed(self, folder: str | Path) -> list[str]:
        """Names of files of the folder that are missing or not as they were written."""
        return checksums.changed(Path(folder), self.checksums)

    def require_unchanged(self, folder: str | Path, every: bool = False) -> None:
        """Compare the files that decide how the model reads and writes; `every`: also its weights, which takes time.

        Raises:
            FileError: a file is missing or not as it was written.
        """
        recorded = {
            name: checksum
            for name, checksum in self.checksums.items()
            if name != DEFAULTS and (every or not _is_weights(name))
        }
        if found := checksums.changed(Path(folder), recorded, float("inf") if every else SMALL):
            raise FileError(
                f"{folder}: {', '.join(found)}: not as {FILE_NAME} says it was written; get the folder anew; what you "
                f'changed yourself, delete there under "{checksums.OTHERS}", and set its own "{checksums.OWN}" to null'
            )


def _is_weights(name: str) -> bool:
    return "/" not in name and name.endswith((".safetensors", ".bin"))


def _what_it_is(folder: Path) -> str:
    """The end of a message about a folder without manifest: the kind of folder, and what to do."""
    if (folder / "model" / FILE_NAME).is_file():
        return f"it is a run; its model is {folder / 'model'}"
    if (folder / "checkpoints").is_dir():
        return "it is a run that has not ended; `jam export` makes a model of its last checkpoint"
    if not folder.is_dir():
        return "there is no such folder"
    return "it is no model of jam; make one with `jam fuse`"
