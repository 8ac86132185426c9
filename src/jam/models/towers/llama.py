"""Llama: rotary positions, grouped keys and values, gated FFN, RMS norm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from jam.models.towers.base import FULL, SLIDING, Family, Rotary

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel
    from transformers.cache_utils import Cache

    from jam.packed import Mask


class LlamaFamily(Family):
    """Llama, and the base of families that name their parts as Llama does."""

    architecture = "LlamaForCausalLM"
    embedding = "model.embed_tokens"
    layers = "model.layers"
    norm = "model.norm"

    biases: str = ""  # projections among q, k, v, o that always have a bias; `attention_bias` gives a bias to all
    head_norms = False  # norms on queries and keys
    layer_norms: ClassVar[tuple[str, ...]] = ("input_layernorm", "post_attention_layernorm")

    def shapes(self, config: Any) -> dict[str, tuple[int, ...]] | None:
        width, table = config.hidden_size, (config.vocab_size, config.hidden_size)
        found: dict[str, tuple[int, ...]] = {f"{self.embedding}.weight": table}
        for layer in range(config.num_hidden_layers):
            found |= {f"{self.layers}.{layer}.{name}": shape for name, shape in self._layer_shapes(config)}
        found[f"{self.norm}.weight"] = (width,)
        return found if config.tie_word_embeddings else found | {f"{self.head}.weight": table}

    def _layer_shapes(self, config: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
        width, inner = config.hidden_size, config.intermediate_size
        size = getattr(config, "head_dim", None) or width // config.num_attention_heads
        queries, keys = config.num_attention_heads * size, config.num_key_value_heads * size
        biases = "qkvo" if getattr(config, "attention_bias", False) else self.biases
        for part, rows in (("q", queries), ("k", keys), ("v", keys), ("o", width)):
            yield f"self_attn.{part}_proj.weight", (rows, queries if part == "o" else width)
            if part in biases:
                yield f"self_attn.{part}_proj.bias", (rows,)
        if self.head_norms:
            yield "self_attn.q_norm.weight", (size,)
            yield "self_attn.k_norm.weight", (size,)
        for part, shape in (("gate", (inner, width)), ("up", (inner, width)), ("down", (width, inner))):
            yield f"mlp.{part}_proj.weight", shape
            if getattr(config, "mlp_bias", False):
                yield f"mlp.{part}_proj.bias", shape[:1]
        for name in self.layer_norms:
            yield f"{name}.weight", (width,)

    def rotary(
        self, model: PreTrainedModel, hidden: Tensor, position_ids: Tensor, cache: Cache | None
    ) -> dict[str, tuple[Tensor, Tensor]]:
        from jam.models.towers.rotary import rotary_of

        return dict.fromkeys((FULL, SLIDING), rotary_of(model.model.rotary_emb, hidden, position_ids, cache))

    def call_layer(self, layer: nn.Module, hidden: Tensor, rotary: Rotary, mask: Mask, cache: Cache | None) -> Tensor:
        return layer(hidden, attention_mask=mask, position_embeddings=rotary, past_key_values=cache)
