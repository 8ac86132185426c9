"""Qwen2 (and 2.5): Llama with biases on queries, keys and values. Qwen3: with norms on queries and keys instead."""

from __future__ import annotations

from transformers import PretrainedConfig, PreTrainedModel, Qwen2ForCausalLM, Qwen3ForCausalLM

from jam.layout import NamedLayout
from jam.models.towers.llama import LlamaFamily

SIMPLEAR = NamedLayout(
    "simplear",
    opening="<|soi|>",
    closing="<|eoi|>",
    question=("<|t2i|>", ""),
    unconditional="<|t2i|>An image of aerial view, overexposed, low quality, deformation, a poor composition, "
    "bad hands, bad teeth, bad eyes, bad limbs, distortion",
    behind_ids=True,
)


class Qwen2Family(LlamaFamily):
    model_class: type[PreTrainedModel] = Qwen2ForCausalLM
    layouts = (SIMPLEAR,)

    def layer_types(self, config: PretrainedConfig) -> list[str]:
        return config.layer_types


class Qwen3Family(Qwen2Family):
    model_class = Qwen3ForCausalLM
