"""Chameleon (Anole and Lumina-mGPT too): Llama with norms on queries and keys, text and image codes in one table.

`ChameleonForConditionalGeneration` overwrites the logits of image codes with the smallest number of the data type, so
that it writes no pictures; the tower has what its head says. With `swin_norm` the norms of a layer stand behind its
attention and FFN.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    ChameleonPreTrainedModel,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.cache_utils import Cache
from transformers.models.chameleon.modeling_chameleon import (
    ChameleonDecoderLayer,
    ChameleonRMSNorm,
    ChameleonRotaryEmbedding,
    ChameleonSwinDecoderLayer,
)

from jam.layout import NamedLayout
from jam.models.towers.base import Rotary
from jam.models.towers.composite import Composite
from jam.models.towers.llama import LlamaFamily
from jam.packed import Mask


class ChameleonDecoder(ChameleonPreTrainedModel):
    """`ChameleonForConditionalGeneration` without its image tokenizer; `transformers` has no class for that."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012 (the library's own convention)

    def __init__(self, config: ChameleonConfig) -> None:
        super().__init__(config)
        size, layer = config.hidden_size, ChameleonSwinDecoderLayer if config.swin_norm else ChameleonDecoderLayer
        self.model = nn.ModuleDict(
            {
                "embed_tokens": nn.Embedding(config.vocab_size, size, config.pad_token_id),
                "layers": nn.ModuleList(layer(config, index) for index in range(config.num_hidden_layers)),
                "norm": ChameleonRMSNorm(size, eps=config.rms_norm_eps),
                "rotary_emb": ChameleonRotaryEmbedding(config),
            }
        )
        self.lm_head = nn.Linear(size, config.vocab_size, bias=False)
        self.post_init()


CHAMELEON = NamedLayout(
    "chameleon", opening="<racm3:break>", closing="<eoss>", question=("", "<reserved08706>")
)  # Anole's too
LUMINA_MGPT = NamedLayout(
    "lumina-mgpt",
    opening="<racm3:break>{height}{width}",
    closing="<eoss>",
    row_end="<reserved08799>",
    numbers=tuple(f"<reserved{8800 + number:05}>" for number in range(65)),  # of 32 pixels, which are two codes
    unit=2,
    question=("", "<reserved08706>"),
)


class ChameleonFamily(LlamaFamily):
    model_class = ChameleonDecoder
    layouts = (CHAMELEON, LUMINA_MGPT)

    def call_layer(self, layer: nn.Module, hidden: Tensor, rotary: Rotary, mask: Mask, cache: Cache | None) -> Tensor:
        return layer(hidden, attention_mask=mask, position_embeddings=rotary, past_key_values=cache)[0]


class ChameleonComposite(Composite):
    prefixes: ClassVar[dict[str, str | None]] = {"model.vqmodel.": None}
    whole_class = ChameleonForConditionalGeneration

    def decoder_config(self, config: PretrainedConfig) -> PretrainedConfig:
        """Without the map of all tokens' names, which says what ids the image tokenizer's codes have."""
        if config.vocabulary_map is None:
            return config
        config = copy.deepcopy(config)
        config.vocabulary_map = None
        return config

    def with_decoder(self, config: PretrainedConfig, decoder: PretrainedConfig) -> PretrainedConfig:
        whole = copy.deepcopy(decoder)
        whole.vocabulary_map, whole.vq_config = config.vocabulary_map, config.vq_config
        return whole

    def decoder_of(self, whole: PreTrainedModel) -> PreTrainedModel:
        config: Any = self.decoder_config(whole.config)
        with torch.device("meta"):
            decoder = ChameleonDecoder(config)
        decoder.model = nn.ModuleDict({name: getattr(whole.model, name) for name in decoder.model})
        decoder.lm_head = whole.lm_head
        return decoder
