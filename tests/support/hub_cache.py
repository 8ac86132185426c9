"""A cache of checkpoints as the hub's client leaves it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import huggingface_hub.constants
import pytest

COMMIT = "c" * 40


def offline(patch: pytest.MonkeyPatch, cache: Path) -> None:
    """The hub's client has its cache there, and no network."""
    patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def store(made: Path, repository: Path) -> None:
    """As the client does: files named by their hashes, a snapshot of links to them, and what "main" is."""
    snapshot = repository / "snapshots" / COMMIT
    for folder in (repository / "blobs", repository / "refs", snapshot):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    for path in sorted(path for path in made.iterdir() if path.is_file()):
        data = path.read_bytes()
        blob = repository / "blobs" / hashlib.sha256(data).hexdigest()
        blob.write_bytes(data)
        (snapshot / path.name).symlink_to(blob)
        path.unlink()
