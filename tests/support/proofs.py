"""What `jam verify` finds and prints."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig

from jam.checkpoints import CheckpointReader
from jam.evaluation.parents import ROLES
from jam.evaluation.tensors import Changes, find_changes
from jam.fusion import Parent


def changes(folder: Path, dtype: torch.dtype = torch.float32) -> Changes:
    reader, parents = CheckpointReader(folder / "out"), {role: Parent.describe(folder / role, role) for role in ROLES}
    config = AutoConfig.from_pretrained(folder / "out", local_files_only=True)
    return find_changes(reader, config, parents, dtype)
