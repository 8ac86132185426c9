"""Comparison of a resumed run's recipe with its earlier recipe."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from jam.training.config import TrainConfig

FROZEN = "digest of frozen weights"
# Settings that do not change the computed values. Instead of paths, digests of the data are compared.
FREE = {
    *("model", "out", "sources", "resume", "device", "validation", "validation_documents", "validate_every"),
    *("checkpoint_every", "keep_checkpoints", "keep_epochs", "keep_best", "on_bad_step", "sharding"),
    *("activation_checkpointing", "compile", "max_logits"),
}

ADDED = {"learn_turns": "last"}  # values for runs from before a setting existed


def settings_of_run(config: TrainConfig, others: dict[str, Any]) -> dict[str, Any]:
    """The settings that must not change when a run resumes; `others` are further values that decide the result."""
    return {key: value for key, value in asdict(config).items() if key not in FREE} | others


def compare(checkpoint: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises ValueError, with a list of the differences, if the settings differ."""
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
