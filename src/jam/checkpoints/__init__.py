"""Checkpoint folders: lazy reading, streamed sharded writing, resumable folders, and the manifest.

>>> from jam.checkpoints import CheckpointReader, Jobs, Manifest, new_folder, write_checkpoint
>>> reader = CheckpointReader("parent")
>>> with new_folder("copy") as folder, Jobs(2) as jobs:
...     checksums = write_checkpoint(folder, reader.infos, lambda name: [reader.read(name)], jobs)
...     Manifest(stage="parent").save(folder)

Names are imported on first use, so that finding and hashing files needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jam.checkpoints.folders import new_folder, write_json
    from jam.checkpoints.hashes import Hashes, sha256_of
    from jam.checkpoints.jobs import Jobs
    from jam.checkpoints.manifest import STAGES, Manifest
    from jam.checkpoints.memory import available_memory, require_memory
    from jam.checkpoints.reader import CheckpointReader
    from jam.checkpoints.resume import resumable_folder
    from jam.checkpoints.shards import write_checkpoint
    from jam.checkpoints.tensors import TensorInfo, check_tensors
    from jam.checkpoints.weights import has_weights

_MODULES = {
    "STAGES": "manifest",
    "CheckpointReader": "reader",
    "Hashes": "hashes",
    "Jobs": "jobs",
    "Manifest": "manifest",
    "TensorInfo": "tensors",
    "available_memory": "memory",
    "check_tensors": "tensors",
    "has_weights": "weights",
    "new_folder": "folders",
    "require_memory": "memory",
    "resumable_folder": "resume",
    "sha256_of": "hashes",
    "write_checkpoint": "shards",
    "write_json": "folders",
}
__all__ = [
    "STAGES",
    "CheckpointReader",
    "Hashes",
    "Jobs",
    "Manifest",
    "TensorInfo",
    "available_memory",
    "check_tensors",
    "has_weights",
    "new_folder",
    "require_memory",
    "resumable_folder",
    "sha256_of",
    "write_checkpoint",
    "write_json",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
