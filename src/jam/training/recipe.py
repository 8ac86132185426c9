"""Whether a run may go on with a recipe."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from jam.training.config import TrainConfig

FROZEN = "digest of frozen weights"
# What does not change what is computed. Paths are compared by what lies there.
FREE = {
    *("model", "out", "sources", "resume", "device", "validation", "validation_documents", "validate_every"),
    *("checkpoint_every", "keep_checkpoints", "keep_epochs", "keep_best", "on_bad_step", "sharding"),
    *("activation_checkpointing", "compile", "max_logits"),
}

ADDED = {"learn_turns": "last"}  # what runs did before there was such a setting


def settings_of_run(config: TrainConfig, others: dict[str, Any]) -> dict[str, Any]:
    """What a resumed run must have in common with the one before; `others` says what else it depends on."""
    return {key: value for key, value in asdict(config).items() if key not in FREE} | others


def compare(checkpoint: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises ValueError, which lists the differences, if there are any."""
    before = {key: value for key, value in ADDED.items() if key in now} | before
    differences = [
        f"{key} was {before.get(key)} and is {now.get(key)}"
        for key in dict.fromkeys([*before, *now])
        if before.get(key) != now.get(key)
    ]
    if differences:
        raise ValueError(
            f"{checkpoint} is of another recipe: {'; '.join(differences)}. Resume a run with the recipe it had "
            "(recipe.json beside its checkpoints), or begin another one with its --out"
        )
