"""Muon (Jordan et al., 2024) with updates scaled to AdamW's size, in fp32 and for many matrices at once.

Shapes: N matrices, of A rows and B columns.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Placement, Shard

COEFFICIENTS, ITERATIONS, EPS = (3.4445, -4.7750, 2.0315), 5, 1e-7  # as Jordan et al. and `torch.optim.Muon`
MOST_VALUES = 2**25  # of matrices orthogonalised together: 128 MiB, and as much for each intermediate result


class Muon(torch.optim.Optimizer):
    """Optimiser whose updates are orthogonalised Nesterov momentum; Muon and AdamW share a learning rate.

    Updates and state are those of `torch.optim.Muon` with ``adjust_lr_fn="match_rms_adamw"`` (Liu et al., 2025, eq. 4),
    but in fp32: that class computes in bfloat16, which many processors emulate, many times slower, and whose rounding
    differs between machines. Matrices of one shape share the matrix products. If matrices are divided (FSDP2), each
    process orthogonalises some of the matrices whole.

    Args:
        params: matrices [A, B], or groups of matrices with their own `lr` and `weight_decay`.
        lr: learning rate; the root mean square of an update is 0.2 times `lr`.
        weight_decay: decoupled weight decay, times `lr`.
        momentum: decay of the momentum, 0 to 1.
    """

    def __init__(self, params: Iterable[Any], lr: float, weight_decay: float, momentum: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        assert all(parameter.ndim == 2 for group in self.param_groups for parameter in group["params"])

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move the parameters that have a gradient."""
        assert closure is None
        alike: dict[Any, list[tuple[dict[str, Any], Tensor]]] = defaultdict(list)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    layout = parameter.placements if isinstance(parameter, DTensor) else parameter.device
                    alike[parameter.shape, parameter.dtype, layout].append((group, parameter))
        for (shape, *_), members in alike.items():
            scale = 0.2 * math.sqrt(max(shape))
            for portion in _portions(members, max(1, MOST_VALUES // shape.numel())):
                updates = orthogonalised([self._momentum(group, parameter) for group, parameter in portion])
                for (group, parameter), update in zip(portion, updates, strict=True):
                    own = _own(parameter)
                    own.mul_(1 - group["lr"] * group["weight_decay"])
                    own.add_(update.to(own.dtype), alpha=-group["lr"] * scale)

    def _momentum(self, group: dict[str, Any], parameter: Tensor) -> Tensor:
        """The gradient with the momentum of all steps, divided as the parameter."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter.grad)
        buffer = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
        return parameter.grad.lerp(buffer, group["momentum"])


def orthogonalised(matrices: list[Tensor]) -> list[Tensor]:
    """Matrices [A, B] of one layout in fp32 with singular values near 1; if divided, this process's parts."""
    first = matrices[0]
    stacked = torch.stack([_own(matrix).float() for matrix in matrices])
    if not isinstance(first, DTensor):
        return list(newton_schulz(stacked).unbind())
    shape = torch.Size((len(matrices), *first.shape))
    parts = [Shard(place.dim + 1) if isinstance(place, Shard) else place for place in first.placements]
    wholes = [Shard(0) if isinstance(place, Shard) else place for place in first.placements]
    own_matrices = _moved(stacked, shape, first, parts, wholes)
    return list(_moved(newton_schulz(own_matrices), shape, first, wholes, parts).unbind())


def newton_schulz(matrices: Tensor) -> Tensor:
    """Matrices [N, A, B] with their singular values brought near 1 by five iterations of a polynomial."""
    a, b, c = COEFFICIENTS
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=EPS)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


def _moved(own: Tensor, shape: torch.Size, example: DTensor, before: list[Placement], after: list[Placement]) -> Tensor:
    """This process's part of a tensor after its division changes from `before` to `after`."""
    strides = (shape[1] * shape[2], shape[2], 1)
    divided = DTensor.from_local(
        own.contiguous(), example.device_mesh, before, run_check=False, shape=shape, stride=strides
    )
    return divided.redistribute(placements=after).to_local()


def _own(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that may be divided."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _portions(members: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(members), size):
        yield members[start : start + size]
