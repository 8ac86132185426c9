"""Llama: rotary positions, grouped keys and values, gated FFN, RMS norm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jam.models.towers.base import FULL, SLIDING, Family, Rotary

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel
    from transformers.cache_utils import Cache

    from jam.packed import Mask


class LlamaFamily(Family):
    """Also the pattern of the families that name their parts as Llama does."""

    architecture = "LlamaForCausalLM"
    embedding = "model.embed_tokens"
    layers = "model.layers"
    norm = "model.norm"

    def rotary(self, model: PreTrainedModel, hidden: Tensor, position_ids: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        return dict.fromkeys((FULL, SLIDING), model.model.rotary_emb(hidden, position_ids))

    def call_layer(self, layer: nn.Module, hidden: Tensor, rotary: Rotary, mask: Mask, cache: Cache | None) -> Tensor:
        return layer(hidden, attention_mask=mask, position_embeddings=rotary, past_key_values=cache)
