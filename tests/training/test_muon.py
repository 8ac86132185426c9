"""Muon in fp32, for many matrices at once: `torch.optim.Muon`'s steps, without its bfloat16."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from jam.training import muon
from jam.training.muon import Muon, newton_schulz
from support.runs import trainer, write_corpora

SHAPES = [(8, 8), (6, 16), (8, 8), (16, 6), (6, 16), (8, 8), (1, 5)]


def matrices(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in SHAPES]


def groups(parameters: list[nn.Parameter]) -> list[dict[str, Any]]:
    """Matrices of one shape lie in both; those of one group have learning rate 1, so that a step is its update."""
    return [{"params": parameters[:3]}, {"params": parameters[3:], "lr": 0.5, "weight_decay": 0.3}]


def walk(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], steps: int = 4) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        optimizer.step()


def test_steps_are_those_of_torch_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "bfloat16", lambda self: self.float().clone())
    ours, theirs = matrices(), matrices()
    settings: dict[str, Any] = {"lr": 1.0, "weight_decay": 0.1, "momentum": 0.9}
    first = Muon(groups(ours), **settings)
    second = torch.optim.Muon(groups(theirs), **settings, adjust_lr_fn="match_rms_adamw")
    walk(first, ours)
    walk(second, theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one, other, rtol=1e-4, atol=1e-5)
        assert first.state[one].keys() == second.state[other].keys()  # checkpoints of either serve both
        assert torch.equal(first.state[one]["momentum_buffer"], second.state[other]["momentum_buffer"])


def test_a_gradient_that_is_missing_moves_nothing() -> None:
    parameters = matrices()
    optimizer = Muon(parameters, 1.0, 0.1, 0.9)
    for parameter in parameters[1:]:
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    assert not parameters[0].any() and parameters[0] not in optimizer.state
    assert all(parameter.any() for parameter in parameters[1:])


@pytest.mark.parametrize("shape", [(16, 16), (8, 24), (24, 8)])
def test_singular_values_come_near_one_and_directions_stay(shape: tuple[int, int]) -> None:
    """0.68 to 1.13 by the polynomial that Jordan et al. chose, from 0.02 of the norm on."""
    generator = torch.Generator().manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(3, *shape, generator=generator), full_matrices=False)
    values = torch.linspace(1.0, 0.1, min(shape))
    made = newton_schulz(left @ torch.diag(values) @ right)
    inner = left.mT @ made @ right.mT
    found = torch.diagonal(inner, dim1=1, dim2=2)
    assert found.min() > 0.68 and found.max() < 1.14
    assert_close(inner, torch.diag_embed(found), rtol=0, atol=1e-4)


def test_portions_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    together, apart = matrices(), matrices()
    walk(Muon(together, 1.0, 0.1, 0.9), together)
    monkeypatch.setattr(muon, "MOST_VALUES", 1)
    walk(Muon(apart, 1.0, 0.1, 0.9), apart)
    for one, other in zip(together, apart, strict=True):
        assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_bfloat16_parameters_stay_so() -> None:
    parameters, exact = matrices(torch.bfloat16), matrices()
    optimizer = Muon(parameters, 0.01, 0.0, 0.9)
    walk(optimizer, parameters, steps=1)
    walk(Muon(exact, 0.01, 0.0, 0.9), exact, steps=1)
    for one, other in zip(parameters, exact, strict=True):
        assert one.dtype == optimizer.state[one]["momentum_buffer"].dtype == torch.bfloat16
        assert_close(one.float(), other, rtol=0.05, atol=2e-4)


class Types(TorchDispatchMode):
    """Notes the types of all tensors that are made."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.seen |= {one.dtype for one in torch.utils._pytree.tree_leaves(result) if isinstance(one, Tensor)}
        return result


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_step_in_fp32_computes_in_nothing_narrower(tmp_path, optimizer: str) -> None:
    """Such types are emulated by processors without them, many times slower."""
    shards = write_corpora(tmp_path / "shards")
    made = trainer(shards, tmp_path / "run", optimizer=optimizer)
    with Types() as types:
        made.train_step()
    assert torch.float32 in types.seen and not types.seen & {torch.bfloat16, torch.float16}
