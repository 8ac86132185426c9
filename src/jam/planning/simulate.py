"""Memory of a forward and a backward pass, measured by running the network on tensors without memory.

The simulation includes every family, data type, recomputed layer and frozen part without formulas of its own.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from jam.models import JointModel
from jam.training import TrainConfig


@dataclass(frozen=True)
class PassMemory:
    """Bytes of one micro-batch's pass through the layers, without weights.

    Args:
        kept: bytes that live between forward and backward.
        peak: greatest bytes at a time without gradients of weights.
        peak_with_gradients: greatest bytes at a time with gradients of weights, none of which exist at the beginning.
    """

    kept: int
    peak: int
    peak_with_gradients: int


class _Live(TorchDispatchMode):
    """Counts the bytes of the living storages that operations create."""

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}  # by the address of a storage
        self.ignored = {tensor.untyped_storage()._cdata for tensor in known}
        self.gradients: set[int] = set()
        self.now = self.of_gradients = self.peak = self.peak_with_gradients = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf)
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.sizes or key in self.ignored:
            return
        self.sizes[key] = storage.nbytes()
        self.now += storage.nbytes()
        weakref.finalize(storage, self._remove, key)
        self.peak = max(self.peak, self.now)
        self.peak_with_gradients = max(self.peak_with_gradients, self.now + self.of_gradients)

    def _remove(self, key: int) -> None:
        size = self.sizes.pop(key)
        if key in self.gradients:
            self.gradients.discard(key)
            self.of_gradients -= size
        else:
            self.now -= size

    def keep_gradient(self, parameter: Tensor) -> None:
        """Count a complete gradient as a gradient, no longer as a temporary value."""
        assert parameter.grad is not None
        key = parameter.grad.untyped_storage()._cdata
        if key in self.sizes and key not in self.gradients:
            self.gradients.add(key)
            self.now -= self.sizes[key]
            self.of_gradients += self.sizes[key]


def simulate(build: Callable[[], JointModel], recipe: TrainConfig, context: int, dtype: torch.dtype) -> PassMemory:
    """The memory of one micro-batch, whose rows are whole documents.

    Args:
        build: function that makes the network, called for the device `meta`.
        dtype: data type of the parameters.
        context: positions of a row.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):  # outside the mode, whose parameters PEFT cannot move to their layer's device
            network = build()
    finally:
        torch.set_default_dtype(before)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _move_to_cpu(network)
        live = _Live([*network.parameters(), *network.buffers()])
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(live.keep_gradient)
        positions = torch.zeros(recipe.micro_batch_size, context, dtype=torch.long)
        with live:
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
                hidden = network.hidden(positions, positions)
            kept = live.now
            hidden.backward(torch.empty_like(hidden))
    return PassMemory(kept, live.peak, live.peak_with_gradients)


def _move_to_cpu(network: nn.Module) -> None:
    """Replace tensors of `meta` by tensors of the CPU, whose autocast and attention count; ties stay."""
    moved: dict[Tensor, Tensor] = {}
    for module in network.modules():
        parameters = module.named_parameters(recurse=False, remove_duplicate=False)
        buffers = module.named_buffers(recurse=False, remove_duplicate=False)
        for name, tensor in [*parameters, *buffers]:
            if tensor not in moved:
                empty = torch.empty_like(tensor, device="cpu", requires_grad=False)
                is_parameter = isinstance(tensor, nn.Parameter)
                moved[tensor] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
            setattr(module, name, moved[tensor])
