"""What a family of decoders must tell us: where its parts are, and how to call a layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

Rotary = tuple[Tensor, Tensor] | None  # cosines and sines, [B, T, head_dim] each


class Family(ABC):
    """One architecture of `transformers`. Names are dotted paths inside the ...ForCausalLM class; None: has none."""

    model_class: type[PreTrainedModel]
    embedding: str
    positions: str | None = None  # learned position table
    layers: str
    norm: str
    head: str = "lm_head"

    def positions_of(self, table: nn.Module, position_ids: Tensor) -> Tensor:
        """Learned position vectors [B, T, d], where `positions` names a table."""
        raise TypeError(f"{type(self).__name__} names a position table and does not say how it is read")

    def rotary(self, model: PreTrainedModel, hidden: Tensor, position_ids: Tensor) -> Rotary:
        """Cosines and sines [B, T, head_dim] of rotary positions; None where the family has none."""
        return None

    def widen(self, model: PreTrainedModel, embedded: Tensor) -> Tensor:
        """From the width of the embedding to that of the layers."""
        return embedded

    def narrow(self, model: PreTrainedModel, hidden: Tensor) -> Tensor:
        """From the width of the layers to that of the head."""
        return hidden

    @abstractmethod
    def call_layer(
        self, layer: nn.Module, hidden: Tensor, rotary: Rotary, mask: Tensor | None, cache: Cache | None
    ) -> Tensor:
        """One decoder layer, [B, T, d] to [B, T, d]."""

    def attention_of(self, layer: nn.Module) -> Any:
        """The layer's attention module, whose `layer_idx` is its index in the cache."""
        return layer.get_submodule("self_attn")
