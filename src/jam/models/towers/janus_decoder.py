"""The decoder of Janus, for which `transformers` has no class, and its config."""

from __future__ import annotations

from dataclasses import field

from torch import nn
from transformers import AutoConfig, LlamaConfig, LlamaModel, LlamaPreTrainedModel
from transformers.models.janus.modeling_janus import JanusVQVAEConfig, JanusVQVAEHead

from jam.models.towers.janus import DECODER


class JanusDecoderConfig(LlamaConfig):
    """A Llama config whose `vocab_size` counts text and image codes; `image_head` has the sizes of the MLP."""

    model_type = DECODER
    image_head: dict = field(default_factory=dict)


class JanusDecoder(LlamaPreTrainedModel):
    """The parts of `JanusForConditionalGeneration` that read and write tokens."""

    def __init__(self, config: JanusDecoderConfig) -> None:
        super().__init__(config)
        self.model = LlamaModel(config)
        head = JanusVQVAEConfig(**config.image_head)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size - head.num_embeddings, bias=False)
        self.generation_head = JanusVQVAEHead(head)
        self.post_init()


AutoConfig.register(JanusDecoderConfig.model_type, JanusDecoderConfig, exist_ok=True)
