"""Matrices as a decode step wants them: read once from memory for all rows, and as small as they may be.

`using_kernel` changes how a model's linear layers compute, not what, and only inside of it: no copies of weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jam.models.cpu_kernel.kernel import DTYPES, few_rows, load_kernel, takes

LARGE = 1 << 26  # bytes of weights that no cache holds: fewer are not worth a compiler's time

_in_use: ContextVar[bool] = ContextVar("kernel_in_use", default=False)
_changed: dict[nn.Linear, tuple[int, type[nn.Linear]]] = {}  # how often a layer is in use, and its class otherwise
_changing = Lock()


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


def product_of_head(x: Tensor, weight: Tensor) -> Tensor:
    """`product` inside of `using_kernel`, else `F.linear`, as the parent's head is multiplied."""
    return (product if kernel_in_use() else F.linear)(x, weight)


def kernel_in_use() -> bool:
    """Whether this thread is inside of `using_kernel`: then heads multiply only the rows asked for, on a GPU too."""
    return _in_use.get()


def kernel_layers(model: nn.Module) -> list[nn.Linear] | None:
    """The layers on the CPU that `using_kernel` changes; None for a small model, or if there is no kernel for its type.

    Nothing of the model is changed by asking.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear | Int8Linear)]
    if sum(layer.weight.nbytes for layer in layers) < LARGE:
        return None
    on_cpu = [layer for layer in layers if layer.weight.device.type == "cpu"]
    plain = [
        layer
        for layer in on_cpu
        if isinstance(layer, KernelLinear)  # another thread's engine is inside of `using_kernel`
        or (isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward)
    ]
    if on_cpu and not (all(layer.weight.dtype in DTYPES for layer in plain) and load_kernel()):
        return None
    return plain


@contextmanager
def using_kernel(layers: list[nn.Linear] | None) -> Iterator[None]:
    """Inside, `layers` (as `kernel_layers` has found them) are `KernelLinear`; afterwards they are what they were.

    Threads may share layers, which are changed back when the last one leaves.
    """
    if layers is None:
        yield
        return
    token = _in_use.set(True)
    try:
        with _changing:
            for layer in layers:
                users, kind = _changed.get(layer, (0, type(layer)))
                _changed[layer] = users + 1, kind
                object.__setattr__(layer, "__class__", KernelLinear)  # that of nn.Module asks what a value is
        yield
    finally:
        with _changing:
            for layer in layers:
                users, kind = _changed.pop(layer, (1, type(layer)))  # not there: interrupted before it was changed
                if users > 1:
                    _changed[layer] = users - 1, kind
                else:
                    object.__setattr__(layer, "__class__", kind)
        _in_use.reset(token)
