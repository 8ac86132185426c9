"""OPT: learned positions, biases optional, pre-norm (post-norm in opt-350m, which also projects its embeddings)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jam.models.towers.base import Family, Rotary

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel
    from transformers.cache_utils import Cache

    from jam.packed import Mask


class OPTFamily(Family):
    architecture = "OPTForCausalLM"
    embedding = "model.decoder.embed_tokens"
    positions = "model.decoder.embed_positions"
    layers = "model.decoder.layers"
    norm = "model.decoder.final_layer_norm"
    activation = "activation_function"
    initializer = "init_std"

    def positions_of(self, table: nn.Module, position_ids: Tensor) -> Tensor:
        return table(None, position_ids=position_ids)

    def widen(self, model: PreTrainedModel, embedded: Tensor) -> Tensor:
        project = model.model.decoder.project_in
        return embedded if project is None else project(embedded)

    def narrow(self, model: PreTrainedModel, hidden: Tensor) -> Tensor:
        project = model.model.decoder.project_out
        return hidden if project is None else project(hidden)

    def call_layer(self, layer: nn.Module, hidden: Tensor, rotary: Rotary, mask: Mask, cache: Cache | None) -> Tensor:
        return layer(hidden, attention_mask=mask, past_key_values=cache)
