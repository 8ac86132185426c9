"""Qwen2 (and 2.5): Llama with biases on queries, keys and values. Qwen3: with norms on queries and keys instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jam.layout import NamedLayout
from jam.models.towers.llama import LlamaFamily

if TYPE_CHECKING:
    from transformers import PretrainedConfig

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
    architecture = "Qwen2ForCausalLM"
    biases = "qkv"
    layouts = (SIMPLEAR,)

    def layer_types(self, config: PretrainedConfig) -> list[str]:
        return config.layer_types


class Qwen3Family(Qwen2Family):
    architecture = "Qwen3ForCausalLM"
    biases = ""
    head_norms = True
