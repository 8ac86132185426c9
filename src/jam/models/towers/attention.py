"""Attention within packed documents, without a T x T mask and without scores between documents.

On a GPU in half precision, torch's variable-length kernel takes all runs at once. Elsewhere, consecutive runs of equal
length (packing sorts runs so) are one call of SDPA. Layers of towers call `layer_attention` by a name of its own in the
library's table of attention functions, so that other models of the process do not change.
Shapes: B batch, T time, R run, h heads, k heads of keys, D head width.
"""

from __future__ import annotations

import copy
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PretrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from jam.models.towers.masks import causal
from jam.packed import Mask, Packed

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # a build of torch without it
    varlen_attn = None  # type: ignore[assignment]

NAME = "jam_sdpa"


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Mask, dropout: float = 0.0, scale: float | None = None
) -> Tensor:
    """[B, h, T, D] from queries [B, h, T, D], keys and values [B, k, K, D]; no mask: plain causal, K = T."""
    if isinstance(mask, Packed) and not mask.is_causal:
        return _packed(query, key, value, mask, dropout, scale)
    dense = None if isinstance(mask, Packed) else mask
    shared = query.shape[1] != key.shape[1]
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=dense, dropout_p=dropout, is_causal=dense is None, scale=scale, enable_gqa=shared
    )


def _packed(query: Tensor, key: Tensor, value: Tensor, packed: Packed, dropout: float, scale: float | None) -> Tensor:
    batch, _, time, _ = query.shape
    q, k, v = (states.transpose(1, 2).flatten(0, 1) for states in (query, key, value))  # [B T, heads, D]
    if has_varlen(query, dropout):
        window = (-1 if packed.window is None else packed.window - 1, 0)
        ends = packed.ends
        result = varlen_attn(q, k, v, ends, ends, time, time, scale=scale, window_size=window, enable_gqa=True)
        assert isinstance(result, Tensor)
    else:
        result = _runs(q, k, v, packed, dropout, scale)
    return result.view(batch, time, *result.shape[1:]).transpose(1, 2)


def has_varlen(query: Tensor, dropout: float) -> bool:
    half = query.dtype in (torch.bfloat16, torch.float16)
    return varlen_attn is not None and query.is_cuda and half and not dropout and query.shape[-1] <= 256


@torch.compiler.disable
def _runs(query: Tensor, key: Tensor, value: Tensor, packed: Packed, dropout: float, scale: float | None) -> Tensor:
    """[B T, h, D], zeros for padding. The backward pass of `split` writes every gradient once, unlike slices."""
    alike = [(length, len(list(group))) for length, group in groupby(packed.lengths)]
    sizes = [count * abs(length) for length, count in alike]
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = (part.repeat_interleave(repeats, dim=1) for part in (key, value))
    results = []
    for (length, count), *states in zip(alike, *(part.split(sizes) for part in (query, key, value)), strict=True):
        if length < 0:
            results.append(torch.zeros_like(states[0]))
            continue
        mask = None
        if packed.window is not None and length > packed.window:
            mask = causal(length, query.device)[0].triu(1 - packed.window)
        q, k, v = (part.unflatten(0, (count, length)).transpose(1, 2) for part in states)
        out = F.scaled_dot_product_attention(q, k, v, mask, dropout, mask is None, scale=scale)
        results.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(results)


def layer_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Mask,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function for the library: heads [B, h, T, D] to [B, T, h, D]."""
    if isinstance(attention_mask, Packed) and not attention_mask.is_causal:
        return attend(query, key, value, attention_mask, dropout, scaling).transpose(1, 2), None
    mask = None if isinstance(attention_mask, Packed) else attention_mask
    return sdpa_attention_forward(module, query, key, value, mask, dropout, scaling, **kwargs)


AttentionInterface.register(NAME, layer_attention)


def with_packed(config: PretrainedConfig) -> PretrainedConfig:
    """A copy of a decoder's config with which attention modules call `layer_attention`.

    The model's own config keeps "sdpa", which the library uses for masks, checks and saving.
    """
    config = copy.deepcopy(config)
    config._attn_implementation = NAME
    return config
