"""Chameleon, Anole and Lumina-mGPT: Llama with norms on queries and keys, text and image codes in one table.

`ChameleonForConditionalGeneration` overwrites the logits of image codes with the smallest number of the data type, so
that it writes no pictures; the tower keeps the head's logits. With `swin_norm`, the norms of a layer follow attention
and FFN.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, ClassVar

from jam.layout import NamedLayout
from jam.models.towers.base import Rotary
from jam.models.towers.composite import Composite
from jam.models.towers.llama import LlamaFamily

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig, PreTrainedModel
    from transformers.cache_utils import Cache

    from jam.packed import Mask

CHAMELEON = NamedLayout(
    "chameleon", opening="<racm3:break>", closing="<eoss>", question=("", "<reserved08706>")
)  # also Anole's layout
LUMINA_MGPT = NamedLayout(
    "lumina-mgpt",
    opening="<racm3:break>{height}{width}",
    closing="<eoss>",
    row_end="<reserved08799>",
    numbers=tuple(f"<reserved{8800 + number:05}>" for number in range(65)),  # units of 32 pixels, which are 2 codes
    unit=2,
    question=("", "<reserved08706>"),
)


class ChameleonFamily(LlamaFamily):
    architecture, home = "ChameleonDecoder", "jam.models.towers.chameleon_decoder"
    layouts = (CHAMELEON, LUMINA_MGPT)

    def shapes(self, config: Any) -> None:
        return None

    def call_layer(self, layer: nn.Module, hidden: Tensor, rotary: Rotary, mask: Mask, cache: Cache | None) -> Tensor:
        return layer(hidden, attention_mask=mask, position_embeddings=rotary, past_key_values=cache)[0]


class ChameleonComposite(Composite):
    prefixes: ClassVar[dict[str, str | None]] = {"model.vqmodel.": None}
    whole_architecture = "ChameleonForConditionalGeneration"

    def decoder_config(self, config: PretrainedConfig) -> PretrainedConfig:
        """The config without the map of tokens' names, which has the ids of the image tokenizer's codes."""
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
        import torch
        from torch import nn

        from jam.models.towers.chameleon_decoder import ChameleonDecoder

        config: Any = self.decoder_config(whole.config)
        with torch.device("meta"):
            decoder = ChameleonDecoder(config)
        decoder.model = nn.ModuleDict({name: getattr(whole.model, name) for name in decoder.model})
        decoder.lm_head = whole.lm_head
        return decoder
