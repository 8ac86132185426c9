"""Emu3: Llama with dropout, over text and visual tokens in one table."""

from __future__ import annotations

from typing import ClassVar

from transformers import Emu3ForCausalLM, PretrainedConfig

from jam.models.towers.composite import Composite
from jam.models.towers.llama import LlamaFamily


class Emu3Family(LlamaFamily):
    model_class = Emu3ForCausalLM


class Emu3Composite(Composite):
    """`Emu3ForConditionalGeneration`: the decoder and its image tokenizer."""

    prefixes: ClassVar[dict[str, str | None]] = {
        "model.text_model.": "model.",
        "text_model.lm_head.": "lm_head.",
        "text_model.model.": "model.",
        "text_model.": "model.",
        "model.vqmodel.": None,
        "vqmodel.": None,
    }

    def decoder_config(self, config: PretrainedConfig) -> PretrainedConfig:
        return self.text_config(config)
