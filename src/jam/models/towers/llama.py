"""Llama: rotary positions, grouped keys and values, gated FFN, RMS norm."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedModel
from transformers.cache_utils import Cache

from jam.models.towers.base import Family, Rotary


class LlamaFamily(Family):
    model_class = LlamaForCausalLM
    embedding = "model.embed_tokens"
    layers = "model.layers"
    norm = "model.norm"

    def rotary(self, model: PreTrainedModel, hidden: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        return model.model.rotary_emb(hidden, position_ids)

    def call_layer(
        self, layer: nn.Module, hidden: Tensor, rotary: Rotary, mask: Tensor | None, cache: Cache | None
    ) -> Tensor:
        return layer(hidden, attention_mask=mask, position_embeddings=rotary, past_key_values=cache)
