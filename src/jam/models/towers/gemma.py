"""Gemma: embeddings scaled by sqrt(d), RMS norms around 1.

Gemma 2 caps attention scores and logits, and every second layer sees a window. Gemma 3 has norms on queries and keys
instead of caps, and a rotary of its own for the layers that see a window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from jam.layout import NamedLayout
from jam.models.towers.composite import Composite
from jam.models.towers.llama import LlamaFamily

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel
    from transformers.cache_utils import Cache

LIQUID = NamedLayout(
    "liquid",
    opening="<boi>",
    closing="<eoi>",
    question=("", " Generate an image based on this description."),
    unconditional="<unconditional>",
    behind_ids=True,
)


class GemmaFamily(LlamaFamily):
    architecture = "GemmaForCausalLM"
    norm_shift = 1.0
    layouts = (LIQUID,)

    def check(self, config: PretrainedConfig) -> None:
        if getattr(config, "use_bidirectional_attention", False):
            raise ValueError(
                f"this {config.model_type} has use_bidirectional_attention: it is an encoder, and a tower is a causal "
                "decoder; choose a model that generates"
            )

    def embedding_scale(self, config: PretrainedConfig) -> float:
        return config.hidden_size**0.5


class Gemma2Family(GemmaFamily):
    architecture = "Gemma2ForCausalLM"
    layer_norms = (
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    )
    activation = "hidden_activation"
    attention = "eager"  # SDPA cannot cap scores

    def layer_types(self, config: PretrainedConfig) -> list[str]:
        return config.layer_types

    def logit_cap(self, config: PretrainedConfig) -> float | None:
        return config.final_logit_softcapping


class Gemma3Family(Gemma2Family):
    architecture = "Gemma3ForCausalLM"
    head_norms = True
    attention = "sdpa"

    def rotary(
        self, model: PreTrainedModel, hidden: Tensor, position_ids: Tensor, cache: Cache | None
    ) -> dict[str, tuple[Tensor, Tensor]]:
        from jam.models.towers.rotary import rotary_of

        module, kinds = model.model.rotary_emb, sorted(set(model.config.layer_types))
        return {kind: rotary_of(module, hidden, position_ids, cache, kind) for kind in kinds}


class Gemma3Composite(Composite):
    """`Gemma3ForConditionalGeneration`: from 4B on, Gemma 3 comes with an image encoder."""

    prefixes: ClassVar[dict[str, str | None]] = {
        "model.language_model.": "model.",
        "language_model.lm_head.": "lm_head.",
        "language_model.model.": "model.",
        "language_model.": "model.",
        "model.vision_tower.": None,
        "model.multi_modal_projector.": None,
        "vision_tower.": None,
        "multi_modal_projector.": None,
    }

    def decoder_config(self, config: PretrainedConfig) -> PretrainedConfig:
        return self.text_config(config)
