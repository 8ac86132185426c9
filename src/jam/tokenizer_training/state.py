"""Checkpoints of a tokenizer's run: tensors in a safetensors file, other state in JSON; written by one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from jam.checkpoints import new_folder
from jam.checkpoints.checksums import OTHERS, checksums_in, write_sealed
from jam.files import reading
from jam.training.checkpoint import STATE, checkpoints, kept, remedy, remove

TENSORS = "state.safetensors"


def save_state(run: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any], keep: int) -> Path:
    """Write ``checkpoints/step-NNNNNN`` unless it exists, then remove all but the last `keep` (0: keep all).

    Raises:
        ValueError: the disk is full; earlier checkpoints stay.
    """
    path = run / "checkpoints" / f"step-{step:06d}"
    if path.exists():
        return path
    needed = sum(tensor.nbytes for tensor in tensors.values())
    with new_folder(path, bytes_needed=needed, kept=kept(run)) as folder:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / TENSORS)
        write_sealed(folder / STATE, {"step": step, **state, OTHERS: checksums_in(folder, (STATE,))})
    for old in checkpoints(run)[:-keep] if keep else []:
        remove(old)
    return path


def collect(name: str, module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Weights and moments of a module, by names with the prefix `name`."""
    tensors = {f"{name}/weights/{key}": value for key, value in module.state_dict().items()}
    for key, parameter in module.named_parameters():
        for kind, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{name}/{kind}/{key}"] = value
    return tensors


def restore(name: str, tensors: dict[str, Tensor], module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Set a module's weights and moments from `collect`. Raises RuntimeError if the weights have other shapes."""
    own = {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}
    weights = {key.removeprefix("weights/"): value for key, value in own.items() if key.startswith("weights/")}
    module.load_state_dict(weights)
    parameters = dict(module.named_parameters())
    for key, value in own.items():
        kind, _, parameter = key.partition("/")
        if kind == "weights":
            continue
        owner = parameters[parameter]
        # The fused optimiser needs step counts on the parameter's device, and moments in the parameter's layout.
        restored = torch.empty_like(owner).copy_(value) if value.shape == owner.shape else value.to(owner.device)
        optimizer.state[owner][kind] = restored.detach()


def load_tensors(checkpoint: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint. Raises FileError for a damaged file."""
    path = checkpoint / TENSORS
    with reading(path, remedy(checkpoint)):
        return load_file(path)
