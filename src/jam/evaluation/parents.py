"""The parents of a fused folder, and the parents' rows of the joint ids."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from transformers import PretrainedConfig

from jam.checkpoints import Manifest, sha256_of
from jam.fusion import Parent
from jam.fusion.hub import locate
from jam.models import CrossConfig
from jam.vocabulary import ParentRows

ROLES = ("text", "image")


def find_parent(
    folder: str | Path, manifest: Manifest, role: str, given: str | Path | None, say: Callable[[str], None]
) -> Parent:
    """A parent of a fused folder.

    Raises:
        ValueError: the folder was not fused, the parent is not found, or the parent's hash is not the manifest's.
    """
    entry = next((ancestor for ancestor in manifest.ancestors if ancestor["role"] == role), None)
    if entry is None:
        raise ValueError(f"{folder}: its manifest names no {role} parent; give a folder that `jam fuse` wrote")
    place = given or entry.get("source")
    try:
        place = None if place is None else locate(place, role)
    except ValueError as error:
        raise ValueError(str(error) if given else f"{error}; name where it lies with --{role}") from None
    if place is None or not place.is_dir():
        where = f"there is no folder {place}" if place else "the manifest does not say where it is"
        raise ValueError(f"the {role} parent {entry['name']} is not found: {where}; name its folder with --{role}")
    parent = Parent.describe(place, role)
    say(f"hashing the {role} parent")
    sha256 = parent.ancestor({path.name: sha256_of(path) for path in parent.files})["sha256"]
    if sha256 != entry["sha256"]:
        raise ValueError(
            f"{place} is not the {role} parent that was fused: its SHA-256 is {sha256}, the manifest of "
            f"{folder} says {entry['sha256']} ({entry['name']}); name that parent's folder with --{role}, or fuse again"
        )
    return parent


def rows_of_parents(folder: str | Path, manifest: Manifest, config: PretrainedConfig) -> dict[str, ParentRows]:
    """The rows of the joint ids in each parent. Raises ValueError if the manifest of an earlier version lacks them."""
    if isinstance(config, CrossConfig):
        return dict(zip(ROLES, config.parent_rows, strict=True))
    if any("rows" not in ancestor for ancestor in manifest.ancestors):
        raise ValueError(f"{folder}/manifest.json does not say the rows of the parents; fuse them again")
    return {ancestor["role"]: ParentRows(**ancestor["rows"]) for ancestor in manifest.ancestors}
