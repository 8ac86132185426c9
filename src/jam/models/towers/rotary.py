"""Rotary positions whose frequencies depend on the length of a sequence: "longrope" and "dynamic" (NTK).

`transformers` uses the longest sequence of a batch (for "dynamic", the longest sequence ever) for all sequences. Here a
sequence has the frequencies of its own length, so that other sequences do not change it; a sequence alone equals
`transformers`. Cached keys keep their rotation, so that with a cache the length up to each token counts: as in
`transformers` for tokens one by one, and independent of the pieces in which a prompt is read or copied.

Shapes: B batch, T time, D rotated dims of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

BY_LENGTH = ("longrope", "dynamic")


def rotary_of(
    module: nn.Module, hidden: Tensor, position_ids: Tensor, cache: Cache | None, kind: str | None = None
) -> tuple[Tensor, Tensor]:
    """Cosines and sines [B, T, D] of a rotary module of `transformers`, in the data type of `hidden`.

    Args:
        position_ids, cache: as in `sequence_lengths`.
        kind: type of layer, for a module with several types.
    """
    types: Any = module.rope_type
    if (types if kind is None else types[kind]) not in BY_LENGTH:
        return module(hidden, position_ids) if kind is None else module(hidden, position_ids, kind)
    return _by_length(module, hidden, position_ids, sequence_lengths(position_ids, cache), kind)


def sequence_lengths(position_ids: Tensor, cache: Cache | None) -> Tensor:
    """Length of the sequence of each position, up to the last known token, long [B, T].

    Args:
        position_ids: long [B, T], increasing by 1 within a sequence; a row may have several sequences.
        cache: with a cache, every token is the last of its sequence.
    """
    if cache is not None:
        return position_ids + 1
    begins = torch.ones_like(position_ids)
    begins[:, 1:] = position_ids[:, 1:] != position_ids[:, :-1] + 1
    number = begins.cumsum(1) - 1
    last = torch.zeros_like(position_ids).scatter_reduce(1, number, position_ids, "amax")
    return 1 + last.gather(1, number)


def _by_length(
    module: nn.Module, hidden: Tensor, position_ids: Tensor, lengths: Tensor, kind: str | None
) -> tuple[Tensor, Tensor]:
    """As `rotary_of`; `lengths`: lengths of the sequences of positions, long [B, T]."""
    config: Any = module.config
    rope = config.rope_parameters if kind is None else config.rope_parameters[kind]
    device, prefix, of = position_ids.device, "", {}
    if kind is not None:
        prefix, of = f"{kind}_", {"layer_type": kind}
    short = getattr(module, f"{prefix}original_inv_freq").to(device)
    make = ROPE_INIT_FUNCTIONS[rope["rope_type"]]
    if rope["rope_type"] == "longrope":
        limit = rope["original_max_position_embeddings"]
        attribute = f"{prefix}long_inv_freq"  # the module's own attribute: a GPU graph cannot compute frequencies
        if getattr(module, attribute, None) is None or getattr(module, attribute).device != device:
            setattr(module, attribute, make(config, device, seq_len=limit + 1, **of)[0])
        long = getattr(module, attribute)
    else:
        limit = config.max_position_embeddings
        # Length by length: powers of vectors have other last bits.
        found, place = lengths.clamp(min=limit).unique(return_inverse=True)
        long = torch.stack([make(config, device, seq_len=length, **of)[0] for length in found])[place]
    frequencies = torch.where(lengths[..., None] > limit, long, short)
    angles = position_ids[..., None].float() * frequencies
    angles, scaling = torch.cat([angles, angles], dim=-1), getattr(module, f"{prefix}attention_scaling")
    return (angles.cos() * scaling).to(hidden.dtype), (angles.sin() * scaling).to(hidden.dtype)
