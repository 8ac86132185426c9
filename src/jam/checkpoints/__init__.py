"""Checkpoint folders: lazy reading, streamed sharded writing, folders made over several runs, and the manifest.

>>> reader = CheckpointReader("parent")
>>> with new_folder("model") as folder, Jobs(2) as jobs:
...     write_checkpoint(folder, reader.infos, lambda name: [reader.read(name)], jobs)
...     Manifest(stage="parent").save(folder)
"""

from __future__ import annotations

from jam.checkpoints.folders import new_folder, write_json
from jam.checkpoints.hashes import sha256_of
from jam.checkpoints.jobs import Jobs
from jam.checkpoints.manifest import STAGES, Manifest
from jam.checkpoints.memory import available_memory, require_memory
from jam.checkpoints.reader import CheckpointReader, has_weights
from jam.checkpoints.resume import resumable_folder
from jam.checkpoints.shards import write_checkpoint
from jam.checkpoints.tensors import TensorInfo, check_tensors

__all__ = [
    "STAGES",
    "CheckpointReader",
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
