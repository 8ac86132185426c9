"""Which optimiser moves which parameter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from jam.models.cross_block import CrossBlock
from jam.models.towers import Tower
from jam.training.config import TrainConfig


def make_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """The optimisers of all parameters that are trained; every parameter belongs to one.

    "adamw": AdamW for all. "muon": Muon (Jordan et al., 2024) for the matrices inside the blocks, with its updates
    scaled to AdamW's size (Liu et al., 2025, eq. 4), so that both take one learning rate; AdamW for embeddings, heads
    and vectors. Weight decay is for matrices.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    inside = _block_matrices(model) if config.optimizer == "muon" else set()
    block = [p for p in trained if p in inside]
    matrices = [p for p in trained if p.ndim >= 2 and p not in inside]
    vectors = [p for p in trained if p.ndim < 2]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            eps=config.eps,
            fused=True,
        )
    ]
    if block:
        settings: dict[str, Any] = {"momentum": config.momentum, "adjust_lr_fn": "match_rms_adamw"}
        optimizers.append(torch.optim.Muon(block, lr=config.lr, weight_decay=config.weight_decay, **settings))
    return optimizers


def _block_matrices(model: nn.Module) -> set[Tensor]:
    """Weights of the linear layers inside the towers' layers and the cross blocks."""
    blocks: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, Tower):
            blocks += module.layers
        elif isinstance(module, CrossBlock):
            blocks.append(module)
    return {inner.weight for block in blocks for inner in block.modules() if isinstance(inner, nn.Linear)}
