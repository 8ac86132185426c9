"""Checkpoints of a run: a whole model folder with the optimiser's state beside the weights, in safetensors and JSON."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from jam.checkpoints import new_folder, write_json

OPTIMIZER = "optimizer.safetensors"
STATE = "run.json"


def checkpoints(run: Path) -> list[Path]:
    """Whole checkpoints of a run, oldest first."""
    return sorted(path for path in (run / "checkpoints").glob("step-*") if re.fullmatch(r"step-\d+", path.name))


def save_checkpoint(
    run: Path,
    step: int,
    save_model: Callable[[Path], None],
    optimizers: list[torch.optim.Optimizer],
    names: dict[torch.Tensor, str],
    state: dict[str, Any],
    keep: int,
) -> Path:
    """Write ``checkpoints/step-NNNNNN`` unless it is there, then remove all but the last `keep` (0: none)."""
    path = run / "checkpoints" / f"step-{step:06d}"
    if path.exists():
        return path
    with new_folder(path) as folder:
        save_model(folder)
        moments = {
            f"{key}/{names[parameter]}": value.contiguous()
            for optimizer in optimizers
            for parameter, values in optimizer.state.items()
            for key, value in values.items()
        }
        save_file(moments, folder / OPTIMIZER)
        write_json(folder / STATE, {"step": step, **state})
    for old in checkpoints(run)[:-keep] if keep else []:
        shutil.rmtree(old)
    return path


def load_optimizers(checkpoint: Path, optimizers: list[torch.optim.Optimizer], names: dict[torch.Tensor, str]) -> None:
    """Restore the moments; a parameter that never had a gradient has none.

    Raises:
        ValueError: they are of other parameters.
    """
    moments = load_file(checkpoint / OPTIMIZER)
    parameters = {name: parameter for parameter, name in names.items()}
    states = {
        parameter: optimizer.state
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    unknown = sorted({key.partition("/")[2] for key in moments} - set(parameters))
    if unknown:
        raise ValueError(
            f"{checkpoint}: optimiser state of {len(unknown)} parameters that are not trained "
            f"({', '.join(unknown[:4])}); resume with the model of this run"
        )
    for key, value in moments.items():
        kind, _, name = key.partition("/")
        parameter = parameters[name]
        # The fused optimiser keeps its step counts, too, on the parameter's device.
        states[parameter][parameter][kind] = value.to(parameter.device)


def read_state(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / STATE).read_text())
