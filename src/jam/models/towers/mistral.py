"""Mistral: Llama, in whose first versions all layers see a sliding window."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jam.models.towers.base import FULL, SLIDING
from jam.models.towers.llama import LlamaFamily

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class MistralFamily(LlamaFamily):
    architecture = "MistralForCausalLM"

    def layer_types(self, config: PretrainedConfig) -> list[str]:
        return [FULL if config.sliding_window is None else SLIDING] * config.num_hidden_layers
