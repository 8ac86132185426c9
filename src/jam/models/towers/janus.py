"""Janus: a Llama that reads image codes through an MLP over their embeddings and writes codes with an MLP as a head.

The first MLP sees only the code, so that its outputs become rows after the text rows. The head stays an MLP.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar

from jam.layout import NamedLayout
from jam.models.towers.composite import Composite, Made
from jam.models.towers.llama import LlamaFamily

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig

DECODER = "jam_janus"
"""The `model_type` of `JanusDecoderConfig`."""
# Janus pads its unconditional prompt to the length of the conditional one; a cached prefix has one length for all.
JANUS = NamedLayout(
    "janus",
    opening="<begin_of_image>",
    closing="<end_of_image>",
    question=("<|User|>: ", "\n\n<|Assistant|>:"),
    unconditional="<\uff5c\u2581pad\u2581\uff5c>" * 16,
)


class JanusFamily(LlamaFamily):
    architecture, home = "JanusDecoder", "jam.models.towers.janus_decoder"
    layouts = (JANUS,)
    image_head = "generation_head"

    def shapes(self, config: Any) -> None:
        return None


class JanusComposite(Composite):
    prefixes: ClassVar[dict[str, str | None]] = {
        "model.language_model.": "model.",
        "model.generation_head.": "generation_head.",
        "model.": None,  # image encoder and tokenizer, and sources for `made`
    }

    def decoder_config(self, config: PretrainedConfig) -> PretrainedConfig:
        from jam.models.towers.janus_decoder import JanusDecoderConfig

        text, codes = self.text_config(config).to_dict(), config.vq_config
        if text.pop("model_type") != "llama":
            raise ValueError(f"this Janus is no Llama but a {config.text_config.model_type}; there is no tower for it")
        shape = ("image_token_embed_dim", "projection_dim", "num_embeddings", "hidden_act")
        text |= {"vocab_size": text["vocab_size"] + codes.num_embeddings, "tie_word_embeddings": False}
        return JanusDecoderConfig(**text, image_head={name: getattr(codes, name) for name in shape})

    def made(self, config: PretrainedConfig, stored: Collection[str]) -> dict[str, Made]:
        import torch
        from torch.func import functional_call
        from transformers.models.janus.modeling_janus import JanusVQVAEAlignerMLP

        table, text, codes = "model.language_model.embed_tokens.weight", config.text_config, config.vq_config
        with torch.device("meta"):
            aligner = JanusVQVAEAlignerMLP(codes)
        weights = {name: tuple(weight.shape) for name, weight in aligner.named_parameters()}
        sources: dict[str, tuple[int, ...]] = {table: (text.vocab_size, text.hidden_size)}
        sources |= {"model.generation_embeddings.weight": (codes.num_embeddings, codes.embed_dim)}
        sources |= {f"model.generation_aligner.{name}": shape for name, shape in weights.items()}

        def rows(embeddings: Tensor, *tensors: Tensor) -> Tensor:
            own = copy.deepcopy(aligner)  # the call changes the module, and several threads may need these rows
            return functional_call(own, dict(zip(weights, tensors, strict=True)), embeddings)

        embedding = Made(sources, "text rows, then the aligner's outputs for all codes", rows)
        if stored and "lm_head.weight" not in stored:  # tied; the config also says so of untied checkpoints
            return {"model.embed_tokens.weight": embedding, "lm_head.weight": Made({table: sources[table]}, "copy")}
        return {"model.embed_tokens.weight": embedding}
