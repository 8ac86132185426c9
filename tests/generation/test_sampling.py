"""Nucleus sampling by a part of the vocabulary: the tokens are those of sorting all of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jam.generation import sampling
from jam.generation.sampling import Choices, sample


def by_sorting(probs_RV: Tensor, choices: Choices) -> Tensor:
    """The definition, over the whole vocabulary in order."""
    kept_RV = torch.zeros_like(probs_RV)
    for row, probs in enumerate(probs_RV):
        ordered = probs.sort(descending=True).values
        top_k, top_p = int(choices.top_k[row]), float(choices.top_p[row])
        floor = ordered[min(top_k, len(ordered)) - 1] if top_k else torch.tensor(0.0)
        ordered = ordered[ordered >= floor]
        if top_p < 1:
            before = ordered.cumsum(0) - ordered
            floor = ordered[max(1, int((before < choices.top_p[row] * ordered.sum()).sum())) - 1]
        floor = max(floor, choices.min_p[row] * ordered[0])
        kept_RV[row] = probs.where(probs >= floor, 0.0)
    return kept_RV


@pytest.mark.parametrize("spread", [0.0, 0.3, 2.0, 8.0])
@pytest.mark.parametrize("vocabulary", [3, 1000])
def test_tokens_are_those_of_a_whole_sort(spread: float, vocabulary: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = torch.Generator().manual_seed(int(10 * spread) + vocabulary)
    rows = 64
    top_p = torch.tensor([1.0, 0.9, 0.5, 0.99, 0.01, 0.999999])[torch.randint(6, (rows,), generator=rng)]
    top_k = torch.tensor([0, 0, 0, 1, 7, 10**9])[torch.randint(6, (rows,), generator=rng)]
    min_p = torch.tensor([0.0, 0.0, 0.1])[torch.randint(3, (rows,), generator=rng)]
    temperature = torch.tensor([0.0, 0.5, 1.0, 1.0])[torch.randint(4, (rows,), generator=rng)]
    logits = spread * torch.randn(rows, vocabulary, generator=rng)
    logits[::5, ::2] = -torch.inf
    logits[1::5] = logits[1::5].round()  # many are equally probable
    uniform = torch.rand(rows, generator=rng)
    for choices in (
        Choices(temperature, top_p, top_k, min_p),
        Choices(temperature, top_p, torch.zeros_like(top_k), torch.zeros(rows)),
        Choices(temperature, torch.ones(rows), torch.zeros_like(top_k), min_p + 0.01),
    ):
        got = sample(logits, choices, uniform)
        with monkeypatch.context() as context:
            context.setattr(sampling, "_probable", by_sorting)
            assert torch.equal(got, sample(logits, choices, uniform))


def test_only_the_end_of_a_nucleus_is_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, plain = [], Tensor.topk
    monkeypatch.setattr(Tensor, "topk", lambda self, size: sizes.append(size) or plain(self, size))
    monkeypatch.setattr(Tensor, "sort", None)
    logits = 5 * torch.randn(8, 10_000, generator=torch.Generator().manual_seed(0))
    full = torch.ones(8)
    sample(logits, Choices(full, 0.9 * full, torch.zeros(8, dtype=torch.long), 0 * full), 0.5 * full)
    assert len(sizes) == 1 and sizes[0] < 500
