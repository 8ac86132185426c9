"""Checkpoint folders: lazy reading, streamed sharded writing, and the manifest.

>>> reader = CheckpointReader("parent")
>>> with new_folder("model") as folder:
...     write_checkpoint(folder, reader.infos, reader.read)
...     Manifest(stage="parent").save(folder)
"""

from __future__ import annotations

from jam.checkpoints.folders import new_folder, write_json
from jam.checkpoints.manifest import STAGES, Manifest
from jam.checkpoints.memory import available_memory, require_memory
from jam.checkpoints.tensors import CheckpointReader, TensorInfo, check_tensors, has_weights, write_checkpoint

__all__ = [
    "STAGES",
    "CheckpointReader",
    "Manifest",
    "TensorInfo",
    "available_memory",
    "check_tensors",
    "has_weights",
    "new_folder",
    "require_memory",
    "write_checkpoint",
    "write_json",
]
