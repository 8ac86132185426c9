"""Tensors of a model from a checkpoint of a run."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from jam.models import JointModel
from jam.training.checkpoint import load_tensors, read_state, require_whole
from jam.training.config import TrainConfig
from jam.training.distributed import World
from jam.training.parts import choose_trained, frozen_digest, merged, named_parameters, whole_tensors
from jam.training.recipe import FROZEN, compare, settings_of_run


def restore(model: JointModel, config: TrainConfig, checkpoint: Path) -> dict[str, Tensor]:
    """All tensors of the model in `checkpoint`, with adapters merged; `model` is the model that the run began with.

    Raises:
        ValueError: the checkpoint belongs to another model or recipe, or is damaged.
    """
    state = read_state(checkpoint)
    require_whole(checkpoint, state)
    recipe = {key: value for key, value in settings_of_run(config, {}).items() if value is not None}
    compare(checkpoint, {key: value for key, value in state["settings"].items() if key in recipe}, recipe)
    choose_trained(model, config)
    before, now = state["settings"].get(FROZEN), frozen_digest(model)
    if before != now:
        raise ValueError(
            f"{checkpoint}: the {FROZEN} was {before}, that of the model given is {now}; name the one that the run "
            "began with (--model)"
        )
    load_tensors(checkpoint, named_parameters(model), [], World())
    return merged(whole_tensors(model), config)
