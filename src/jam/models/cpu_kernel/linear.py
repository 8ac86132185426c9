"""Matrices as a decode step wants them: read once from memory for all rows, and as small as they may be.

`use_kernel` changes how a model's linear layers compute, not what: no copies, and the state dict stays as it is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jam.models.cpu_kernel.kernel import DTYPES, few_rows, load_kernel, takes

LARGE = 1 << 26  # bytes of weights that no cache holds: fewer are not worth a compiler's time


class KernelLinear(nn.Linear):
    """`nn.Linear`, whose products of few rows are those of `few_rows`."""

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.weight, self.bias)


class Int8Linear(nn.Module):
    """A linear layer whose weights are int8 with a scale per output (the largest magnitude of the row is 127)."""

    weight: Tensor
    scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        largest = weight.float().abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
        scale = largest / 127
        self.register_buffer("scale", scale)
        self.register_buffer("weight", (weight.float() / scale[:, None]).round().to(torch.int8))
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        if takes(x):
            return few_rows(x, self.weight, self.scale, self.bias)
        product = F.linear(x, self.weight.to(x.dtype)) * self.scale.to(x.dtype)
        return product if self.bias is None else product + self.bias


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`, by the kernel where there is one and it is faster."""
    return few_rows(x, weight, None, bias) if takes(x) else F.linear(x, weight, bias)


def use_kernel(model: nn.Module) -> bool:
    """Prepare a large model for decoding; whether that was done.

    On the CPU its linear layers use the kernel, if there is one for their type. A head whose class says so multiplies
    only the rows that are asked for, on a GPU too.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear | Int8Linear)]
    if sum(layer.weight.nbytes for layer in layers) < LARGE:
        return False
    plain = [layer for layer in layers if type(layer).forward is nn.Linear.forward]
    if any(layer.weight.device.type == "cpu" for layer in layers):
        known = all(layer.weight.dtype in DTYPES for layer in plain if layer.weight.device.type == "cpu")
        if not (known and load_kernel()):
            return False
    for layer in plain:
        layer.__class__ = KernelLinear
    return True
