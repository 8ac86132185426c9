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
    optimizer: torch.optim.Optimizer,
    names: dict[torch.nn.Parameter, str],
    state: dict[str, Any],
    keep: int,
) -> Path:
    """Write ``checkpoints/step-NNNNNN`` beside and rename it, then remove all but the last `keep`."""
    path = run / "checkpoints" / f"step-{step:06d}"
    with new_folder(path, overwrite=True) as folder:
        save_model(folder)
        moments = {
            f"{key}/{names[parameter]}": value.contiguous()
            for parameter, values in optimizer.state.items()
            for key, value in values.items()
        }
        save_file(moments, folder / OPTIMIZER)
        write_json(folder / STATE, {"step": step, **state})
    for old in checkpoints(run)[:-keep]:
        shutil.rmtree(old)
    return path


def load_optimizer(
    checkpoint: Path, optimizer: torch.optim.Optimizer, names: dict[torch.nn.Parameter, str]
) -> None:
    """Restore the moments. Raises ValueError if they are of other parameters."""
    moments = load_file(checkpoint / OPTIMIZER)
    parameters = {name: parameter for parameter, name in names.items()}
    expected, found = set(parameters), {key.partition("/")[2] for key in moments}
    if expected != found:
        raise ValueError(
            f"{checkpoint}: optimiser state of other parameters: {len(expected - found)} missing, "
            f"{len(found - expected)} unexpected ({', '.join(sorted(expected ^ found)[:4])})"
        )
    for key, value in moments.items():
        kind, _, name = key.partition("/")
        parameter = parameters[name]
        # AdamW keeps its step count as a CPU scalar unless it is fused or capturable.
        optimizer.state[parameter][kind] = value.to(parameter.device) if value.ndim else value


def read_state(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / STATE).read_text())
