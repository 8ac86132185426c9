"""Attention masks of one forward. Shapes: B batch, T queries, K keys."""

from __future__ import annotations

import torch
from torch import Tensor

from jam.packed import Mask, Packed


def windowed(mask: Mask, position_ids: Tensor, window: int, cached: bool) -> Mask:
    """`mask`, restricted to keys fewer than `window` positions back, bool [B or 1, 1, T, K].

    `position_ids` give the positions, so that a window ends at the beginning of a packed document; with a cache, a
    key's position is its place in the cache. A window that contains all keys returns `mask`.

    Args:
        mask: bool [B, 1, T, K], True where visible; or packed documents or None (plain causal) with K = T.
        position_ids: long [B or 1, T]; a token's position is 1 more than the previous position, or starts again.
    """
    if isinstance(mask, Packed):
        return mask.windowed(window)
    keys = position_ids.shape[-1] if mask is None else mask.shape[-1]
    if keys < window:
        return mask
    query = position_ids[:, None, :, None]
    if cached:
        assert mask is not None, "RowCache.step returns the mask of a cached forward"
        key = torch.arange(keys, device=query.device)
        query = query.clamp(max=keys - 1)  # padding is beyond the last key, and must see a key
    else:
        key = position_ids[:, None, None, :]
        mask = causal(keys, query.device) if mask is None else mask
    return mask & (query - key < window)


def additive(mask: Mask, hidden: Tensor) -> Tensor:
    """The mask as numbers that eager attention adds to scores of `hidden` [B, T, d]; None: plain causal."""
    if mask is None:
        mask = causal(hidden.shape[1], hidden.device)
    elif isinstance(mask, Packed):
        mask = mask.dense()
    return torch.where(mask, torch.zeros((), dtype=hidden.dtype, device=hidden.device), torch.finfo(hidden.dtype).min)


def causal(length: int, device: torch.device) -> Tensor:
    """The causal mask, bool [1, 1, length, length], True where visible."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]
