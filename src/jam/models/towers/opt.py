"""OPT: learned positions, optional biases, pre-norm (opt-350m has post-norm and projects its embeddings)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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

    def shapes(self, config: Any) -> dict[str, tuple[int, ...]] | None:
        width, narrow, outer = config.hidden_size, config.word_embed_proj_dim, "model.decoder"
        has_bias, has_weights = config.enable_bias, config.layer_norm_elementwise_affine
        norm: dict[str, tuple[int, ...]] = {"weight": (width,), "bias": (width,)} if has_weights else {}
        found: dict[str, tuple[int, ...]] = {f"{self.embedding}.weight": (config.vocab_size, narrow)}
        found[f"{self.positions}.weight"] = (config.max_position_embeddings + 2, width)
        if narrow != width:
            found |= {f"{outer}.project_out.weight": (narrow, width), f"{outer}.project_in.weight": (width, narrow)}
        if config.do_layer_norm_before and not config._remove_final_layer_norm:
            found |= {f"{self.norm}.{part}": shape for part, shape in norm.items()}
        for layer in range(config.num_hidden_layers):
            here = f"{self.layers}.{layer}"
            for part in ("k", "v", "q", "out"):
                found |= _linear(f"{here}.self_attn.{part}_proj", width, width, has_bias)
            found |= {f"{here}.self_attn_layer_norm.{part}": shape for part, shape in norm.items()}
            found |= _linear(f"{here}.fc1", config.ffn_dim, width, has_bias)
            found |= _linear(f"{here}.fc2", width, config.ffn_dim, has_bias)
            found |= {f"{here}.final_layer_norm.{part}": shape for part, shape in norm.items()}
        return found if config.tie_word_embeddings else found | {f"{self.head}.weight": (config.vocab_size, narrow)}

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


def _linear(name: str, outputs: int, inputs: int, bias: bool) -> dict[str, tuple[int, ...]]:
    weight: dict[str, tuple[int, ...]] = {f"{name}.weight": (outputs, inputs)}
    return weight | {f"{name}.bias": (outputs,)} if bias else weight
