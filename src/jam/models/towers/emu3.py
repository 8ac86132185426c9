"""Emu3: Llama with dropout, over text and visual tokens in one table."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, ClassVar

from jam.layout import NamedLayout
from jam.models.towers.composite import Composite
from jam.models.towers.llama import LlamaFamily

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

EMU3 = NamedLayout(
    "emu3",
    opening="<|image start|>{height}*{width}<|image token|>",
    closing="<|extra_201|><|image end|>",
    row_end="<|extra_200|>",
    system="You are a helpful assistant. ",
    question=("USER: ", " ASSISTANT:"),
    unconditional="lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, fewer digits, cropped, "
    "worst quality, low quality, normal quality, jpeg artifacts, signature, watermark, username, blurry.",
)


class Emu3Family(LlamaFamily):
    architecture = "Emu3ForCausalLM"
    layouts = (EMU3,)


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

    whole_architecture = "Emu3ForConditionalGeneration"

    def decoder_config(self, config: PretrainedConfig) -> PretrainedConfig:
        return self.text_config(config)

    def with_decoder(self, config: PretrainedConfig, decoder: PretrainedConfig) -> PretrainedConfig:
        whole = copy.deepcopy(config)
        whole.text_config, whole.tie_word_embeddings = decoder, decoder.tie_word_embeddings
        return whole

    def decoder_of(self, whole: PreTrainedModel) -> PreTrainedModel:
        import torch
        from transformers import Emu3ForCausalLM

        config: Any = self.decoder_config(whole.config)
        with torch.device("meta"):
            decoder = Emu3ForCausalLM(config)
        decoder.model, decoder.lm_head = whole.model.text_model, whole.lm_head
        return decoder
