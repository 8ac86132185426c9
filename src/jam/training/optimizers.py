"""Optimisers of the trained parameters, and norms of gradients."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from jam.models import JointModel
from jam.training.config import TrainConfig
from jam.training.distributed import whole
from jam.training.muon import Muon
from jam.training.parts import part_of


def make_optimizers(model: JointModel, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """The optimisers of all trained parameters; every parameter belongs to one optimiser.

    "adamw": AdamW for all. "muon": `Muon` for the matrices inside the blocks, AdamW for embeddings, heads and vectors,
    both with one learning rate. Only matrices have weight decay. A group's `factor` scales the learning rate of its
    part.

    Raises:
        ValueError: `lr_factors` names a part that is not trained.
    """
    trained = [(part_of(name), parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    parts = list(dict.fromkeys(part for part, _ in trained))
    if unknown := sorted(config.lr_factors.keys() - set(parts)):
        raise ValueError(f"lr_factors names {', '.join(unknown)}; what is trained here is {', '.join(parts)}")
    inside = _block_matrices(model) if config.optimizer == "muon" else set()
    adamw, muon = [], []
    for part in parts:
        own = [parameter for of, parameter in trained if of == part]
        group = {"factor": config.lr_factors.get(part, 1.0)}
        matrices = [p for p in own if p.ndim >= 2 and p not in inside]
        vectors = [p for p in own if p.ndim < 2]
        adamw += [
            group | {"params": matrices, "weight_decay": config.weight_decay},
            group | {"params": vectors, "weight_decay": 0.0},
        ]
        if block := [p for p in own if p in inside]:
            muon.append(group | {"params": block})
    betas = (config.beta1, config.beta2)
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(adamw, lr=config.lr, betas=betas, eps=config.eps, fused=True)
    ]
    if muon:
        optimizers.append(Muon(muon, config.lr, config.weight_decay, config.momentum))
    return optimizers


def _block_matrices(model: JointModel) -> set[Tensor]:
    """Weights of the linear layers inside the towers' layers and the cross blocks."""
    return {inner.weight for block in model.blocks for inner in block.modules() if isinstance(inner, nn.Linear)}


def gradient_norms(parameters: dict[str, nn.Parameter]) -> dict[str, float]:
    """Norms of the gradients by part, and of all gradients ("all")."""
    gradients: dict[str, list[Tensor]] = defaultdict(list)
    for name, parameter in parameters.items():
        if parameter.grad is not None:
            gradients[part_of(name)].append(parameter.grad)
    norms = {part: float(whole(get_total_norm(tensors))) for part, tensors in gradients.items()}
    return norms | {"all": sum(norm**2 for norm in norms.values()) ** 0.5}


def clip(parameters: dict[str, nn.Parameter], norm: float, max_norm: float) -> None:
    """Scale gradients whose norm is `norm` down to `max_norm`, if it is greater."""
    clip_grads_with_norm_(parameters.values(), max_norm, torch.tensor(norm))
