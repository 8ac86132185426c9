"""Compiled layers, for many tokens from one process: compiling takes a minute or two, and is kept by torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from jam.models.base import JointModel

FEWEST_CODES = 32  # of one function: kinds of layers, times one row, two, and more


def compile_layers(model: JointModel, **options: Any) -> None:
    """Let `torch.compile` (which takes the options) make the towers' layers and the cross blocks, in place.

    Layers of one kind share what is compiled. The rest of a step is little, and prompts are read uncompiled.
    """
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.config.recompile_limit = max(limit, FEWEST_CODES)
    for block in model.blocks:
        block.compile(**options)


def is_compiled(model: nn.Module) -> bool:
    return any(module._compiled_call_impl is not None for module in model.modules())
