"""Compiled layers, for many tokens from one process: torch compiles for a minute or two, and keeps the result."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from jam.models.base import JointModel

FEWEST_CODES = 32  # variants of a function: kinds of layers, times one row, two rows and more


def compile_layers(model: JointModel, **options: Any) -> None:
    """Compile the towers' layers and the cross blocks, in place; `options` are for `torch.compile`.

    Layers of one kind share compiled code. The rest of a step is short, and prompts are read uncompiled.
    """
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.config.recompile_limit = max(limit, FEWEST_CODES)
    for block in model.blocks:
        block.compile(**options)


def is_compiled(model: nn.Module) -> bool:
    return any(module._compiled_call_impl is not None for module in model.modules())
