"""Start, use and revival of codes.

Shapes: K codes of width c, P latents.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ITERATIONS = 10


@torch.no_grad()
def start_codes(model: Any, latents_Pc: Tensor, generator: torch.Generator) -> None:
    """Set the codebook to the k-means centres of latents; k-means starts at random latents."""
    codebook = model.quantize.embedding.weight
    points = latents_Pc.float()
    centres = points[_draw(len(points), len(codebook), generator)].clone()
    for _ in range(ITERATIONS):
        nearest = torch.cat([torch.cdist(part, centres).argmin(1) for part in points.split(8192)])
        counts = torch.bincount(nearest, minlength=len(centres))
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        used = counts > 0
        centres[used] = sums[used] / counts[used, None]
        centres[~used] = points[_draw(len(points), int((~used).sum()), generator)]
    codebook.copy_(centres)


@torch.no_grad()
def revive_codes(
    model: Any, used_K: Tensor, latents_Pc: Tensor, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> int:
    """Move unused codes to random latents, reset their moments, and return their number."""
    dead = (used_K == 0).nonzero()[:, 0]
    if not len(dead):
        return 0
    codebook = model.quantize.embedding.weight
    codebook[dead] = latents_Pc[_draw(len(latents_Pc), len(dead), generator)].to(codebook)
    for moment in optimizer.state.get(codebook, {}).values():
        if moment.shape == codebook.shape:
            moment[dead] = 0
    return len(dead)


def _draw(count: int, draws: int, generator: torch.Generator) -> Tensor:
    """`draws` random numbers below `count`; they repeat only if `draws` is larger."""
    rounds = [torch.randperm(count, generator=generator) for _ in range(-(-draws // count))]
    return torch.cat(rounds)[:draws] if rounds else torch.zeros(0, dtype=torch.long)


def usage(counts_K: Tensor) -> dict[str, float]:
    """Number and share of used codes, and the perplexity of their frequencies (K: all equal)."""
    frequency = counts_K.double() / counts_K.sum().clamp(min=1)
    entropy = -torch.xlogy(frequency, frequency).sum()
    used = int((counts_K > 0).sum())
    return {"codes_used": used, "code_usage": used / len(counts_K), "code_perplexity": float(entropy.exp())}
