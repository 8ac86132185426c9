"""The trained parameters of a model, and the part that each parameter belongs to."""

from __future__ import annotations

import hashlib
import re
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from jam.models import JointModel
from jam.models.towers import Tower
from jam.training.config import TrainConfig
from jam.training.distributed import whole

PARTS = {"text_tower": "text", "image_tower": "image", "to_text": "cross", "to_image": "cross", "tower": "tower"}
ADAPTER = "default"  # PEFT's name of our adapter
PREFIX = 4096  # first values of a frozen tensor, which identify it


def part_of(name: str) -> str:
    """The part of the parameter `name`: "text", "image", "cross", "readout"; "tower" in a single decoder."""
    return PARTS.get(name.partition(".")[0], "readout")


def choose_trained(model: JointModel, config: TrainConfig) -> None:
    """Freeze all parameters but those that `config.train` names.

    "cross" freezes the parents inside the towers, with their embeddings and heads, but not the new rows. "lora" also
    adds adapters (Hu et al., 2021) to all matrices of the towers' layers.

    Raises:
        ValueError: nothing is left to train, or PEFT is not installed.
    """
    if config.train == "all":
        return
    if config.train == "cross" and not model.cross_blocks:
        raise ValueError("train is cross, and a single decoder has no cross blocks; choose all or lora")
    for tower in model.towers:
        tower.model.requires_grad_(False)
        if config.train == "lora":
            _add_adapters(tower, config)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"train is {config.train}, which leaves this model nothing to train; choose lora or all")


def _add_adapters(tower: Tower, config: TrainConfig) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ValueError("train is lora, which needs PEFT: pip install 'jam-fusion[lora]'") from None
    inside = {module for layer in tower.layers for module in layer.modules() if isinstance(module, nn.Linear)}
    targets = [name for name, module in tower.model.named_modules() if module in inside]
    rank, dropout = config.lora_rank, config.lora_dropout
    settings = LoraConfig(r=rank, lora_alpha=config.lora_alpha, lora_dropout=dropout, target_modules=targets)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)  # all processes make equal adapters
        inject_adapter_in_model(settings, tower.model, ADAPTER)


def merged(tensors: dict[str, Tensor], config: TrainConfig) -> dict[str, Tensor]:
    """The tensors of a model with adapters added to their matrices, under the names of a model without adapters."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if ".lora_" in name:
            continue
        if ".base_layer." in name:
            stem = name.partition(".base_layer.")[0]
            if name.endswith(".weight"):
                down, up = (tensors[f"{stem}.lora_{side}.{ADAPTER}.weight"].float() for side in "AB")
                change = config.lora_alpha / config.lora_rank * (up @ down)
                tensor = (tensor.float() + change).to(tensor.dtype)
        found[re.sub(r"\.base_layer\.", ".", name)] = tensor
    return found


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trained parameters by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def frozen_digest(model: nn.Module) -> str | None:
    """A hash of the first values of all frozen parameters, or None if nothing is frozen."""
    digest, is_empty = hashlib.sha256(), True
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            first = parameter.detach().reshape(-1)[:PREFIX].cpu().contiguous()
            digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
            digest.update(first.view(torch.uint8).numpy().tobytes())
            is_empty = False
    return None if is_empty else digest.hexdigest()[:16]


def whole_tensors(model: nn.Module, keep: bool = True) -> dict[str, Tensor]:
    """All whole tensors of a model, tied tensors once; every process must call this.

    Args:
        keep: False returns no tensors on this process.
    """
    parameters = dict(model.named_parameters())
    with_tied = dict(model.named_parameters(remove_duplicate=False))
    buffers = {name: value for name, value in model.state_dict().items() if name not in with_tied}
    found = {}
    for name, value in (parameters | buffers).items():
        tensor = whole(value.detach())
        if keep:
            found[name] = tensor.cpu() if isinstance(value, DTensor) else tensor
    return found


def prepare_layers(model: JointModel, config: TrainConfig) -> None:
    """Set up activation checkpointing and compilation of the layers and cross blocks, as the recipe says."""
    blocks: list[Any] = model.blocks
    if config.activation_checkpointing:
        for block in blocks:  # as `gradient_checkpointing_enable`, whose name depends on the library
            block.gradient_checkpointing = True
            block._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
    if config.compile:
        for block in blocks:
            block.compile()
