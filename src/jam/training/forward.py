"""Forward passes of training and validation: hidden states of a batch, at the positions that count."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from jam.data import Batch
from jam.models import JointModel


def batch_hidden(model: JointModel, batch: Batch) -> Tensor:
    return model.hidden(batch.inputs, batch.positions, batch.packed)


def select(batch: Batch, hidden: Tensor) -> tuple[Tensor, ...]:
    """Hidden states, targets, states and weights of the positions that count, flattened to [N, ...]."""
    at = (batch.weights.flatten() > 0).nonzero()[:, 0]
    flat = [tensor.flatten()[at] for tensor in (batch.targets, batch.states, batch.weights)]
    return (hidden.flatten(0, 1).index_select(0, at), *flat)


def is_image(targets: Tensor, model: JointModel) -> Tensor:
    """Bool [N]: which targets are image codes."""
    vocabulary = model.vocabulary
    return (targets >= vocabulary.image_start) & (targets < vocabulary.control_start)


def autocast(device: torch.device, bf16: bool) -> Any:
    """A context that runs matrix products in bf16, or changes nothing."""
    return torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()
