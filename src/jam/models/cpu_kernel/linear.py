"""Linear layers for decode steps: weights are read from memory once for all rows, and may be int8.

`using_kernel` changes how linear layers compute, only within its context and without copies of weights.
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

LARGE = 1 << 26  # bytes of weights that no cache holds: smaller models are not worth a compiler's time

_in_use: ContextVar[bool] = ContextVar("kernel_in_use", default=False)
_changed: dict[nn.Linear, tuple[int, type[nn.Linear]]] = {}  # number of users of a layer, and its original class
_changing = Lock()


class KernelLinear(nn.Linear):
    """`nn.Linear` that computes products of few rows by `few_rows`."""

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.weight, self.bias)


class Int8Linear(nn.Module):
    """A linear layer with int8 weights and a scale per output (a row's largest magnitude is 127)."""

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
    """`F.linear`, by the kernel if it is loaded and faster."""
    return few_rows(x, weight, None, bias) if takes(x) else F.linear(x, weight, bias)


def product_of_head(x: Tensor, weight: Tensor) -> Tensor:
    """`product` within `using_kernel`, else `F.linear`, which equals the parent's head."""
    return (product if kernel_in_use() else F.linear)(x, weight)


def kernel_in_use() -> bool:
    """True if this thread is within `using_kernel`: heads then multiply only the selected rows, on a GPU too."""
    return _in_use.get()


def kernel_layers(model: nn.Module) -> list[nn.Linear] | None:
    """The layers on the CPU that `using_kernel` changes; None for a small model, or without a kernel for its type."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear | Int8Linear)]
    if sum(layer.weight.nbytes for layer in layers) < LARGE:
        return None
    on_cpu = [layer for layer in layers if layer.weight.device.type == "cpu"]
    plain = [
        layer
        for layer in on_cpu
        if isinstance(layer, KernelLinear)  # another thread is within `using_kernel`
        or (isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward)
    ]
    if on_cpu and not (all(layer.weight.dtype in DTYPES for layer in plain) and load_kernel()):
        return None
    return plain


@contextmanager
def using_kernel(layers: list[nn.Linear] | None) -> Iterator[None]:
    """Within this context, `layers` (from `kernel_layers`) are `KernelLinear`.

    Threads may share layers; the last thread that leaves changes a layer back.
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
                object.__setattr__(layer, "__class__", KernelLinear)  # nn.Module's __setattr__ checks types of values
        yield
    finally:
        with _changing:
            for layer in layers:
                users, kind = _changed.pop(layer, (1, type(layer)))  # absent: interrupted before the change
                if users > 1:
                    _changed[layer] = users - 1, kind
                else:
                    object.__setattr__(layer, "__class__", kind)
        _in_use.reset(token)
