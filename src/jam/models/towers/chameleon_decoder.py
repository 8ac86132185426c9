"""The decoder of Chameleon, for which `transformers` has no class."""

from __future__ import annotations

from torch import nn
from transformers import ChameleonConfig, ChameleonPreTrainedModel
from transformers.models.chameleon.modeling_chameleon import (
    ChameleonDecoderLayer,
    ChameleonRMSNorm,
    ChameleonRotaryEmbedding,
    ChameleonSwinDecoderLayer,
)


class ChameleonDecoder(ChameleonPreTrainedModel):
    """`ChameleonForConditionalGeneration` without its image tokenizer."""

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
