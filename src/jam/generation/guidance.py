"""Classifier-free guidance on image tokens (paper eq. 6, docs/method.md, sections 3 and 7)."""

from __future__ import annotations

from torch import Tensor


def guide(conditional: Tensor, unconditional: Tensor, scale: Tensor) -> Tensor:
    """Eq. 6: uncond + alpha (cond - uncond). Logits [R, V], alpha [R].

    Ids that are impossible in both (-inf) come out as nan: mask afterwards.
    """
    return unconditional + scale.unsqueeze(-1) * (conditional - unconditional)
