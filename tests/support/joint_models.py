"""Small random parents and joint models of them, for tests of models."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
)

from jam.models import CrossConfig, CrossForCausalLM
from jam.vocabulary import ParentRows, Vocabulary

VOCABULARY = Vocabulary(text_size=40, image_size=16, eos_id=2, sentinels=4)
TEXT_ROWS = ParentRows(text_size=40)
IMAGE_ROWS = ParentRows(text_size=40, image_start=41, control_start=57, control_size=3)  # row 40 is nobody's
TEXT_SIZE, IMAGE_SIZE = 40, 60  # rows of the parents' tables
B, S0 = VOCABULARY.break_id, VOCABULARY.sentinel_start
TEXT_DOCUMENT = [2, 5, 6, 7, 30, 39, 11, 5, 8]
DOCUMENT = [2, 5, 6, 7, B, 41, 50, 44, 55, B, 8, 9, B, 40, 40, 42, 43, 2]


def opt(vocabulary: int, **changes: Any) -> PreTrainedModel:
    settings = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "ffn_dim": 48,
        "num_attention_heads": 4,
        "max_position_embeddings": 24,
        "enable_bias": False,
        "layer_norm_elementwise_affine": False,
        "dropout": 0.0,
        "init_std": 0.1,
    }
    return randomised(OPTForCausalLM(OPTConfig(vocab_size=vocabulary, **settings | changes)))


def llama(vocabulary: int, **changes: Any) -> PreTrainedModel:
    settings = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 24,
    }
    return randomised(LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **settings | changes)))


def randomised(model: PreTrainedModel) -> PreTrainedModel:
    """Biases and norms too, so that a forgotten one shows."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model.eval()


PARENTS = {
    "opt": lambda size: opt(size),
    "opt-biases": lambda size: opt(
        size, enable_bias=True, layer_norm_elementwise_affine=True, hidden_size=48, tie_word_embeddings=False
    ),
    "opt-post-norm": lambda size: opt(size, do_layer_norm_before=False, word_embed_proj_dim=16, enable_bias=True),
    "llama": lambda size: llama(size),
    "llama-tied": lambda size: llama(
        size, num_key_value_heads=4, hidden_size=48, head_dim=16, tie_word_embeddings=True, attention_bias=True
    ),
}
PAIRS = {
    "opt": (opt, opt, {}, {}),
    "llama": (llama, llama, {}, {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    "unequal": (opt, llama, {"num_hidden_layers": 4}, {"hidden_size": 48, "num_hidden_layers": 2}),
}


def pair(name: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    text, image, text_changes, image_changes = PAIRS[name]
    return text(TEXT_SIZE, **text_changes), image(IMAGE_SIZE, **image_changes)


def config_of(text: PreTrainedModel, image: PreTrainedModel, every: int = 2, readout: str = "exact") -> CrossConfig:
    return CrossConfig(
        text_config=text.config,
        image_config=image.config,
        vocabulary=VOCABULARY.to_dict(),
        image_grid=[2, 2],
        text_rows=asdict(TEXT_ROWS),
        image_rows=asdict(IMAGE_ROWS),
        cross_every=every,
        readout=readout,
    )


def cross(name: str = "opt", every: int = 2, readout: str = "exact", trained: bool = False) -> CrossForCausalLM:
    """A cross model; `trained` ones have no zeros left."""
    model = CrossForCausalLM(config_of(*pair(name), every=every, readout=readout)).eval()
    return randomised(model) if trained else model


def with_parents(name: str, every: int = 2) -> tuple[CrossForCausalLM, PreTrainedModel, PreTrainedModel]:
    text, image = pair(name)
    model = CrossForCausalLM(config_of(text, image, every=every)).eval()
    model.text_tower.model.load_state_dict(text.state_dict())
    model.image_tower.model.load_state_dict(image.state_dict())
    return model, text, image


def joint_to_image_parent(ids: list[int]) -> Tensor:
    row_of = IMAGE_ROWS.row_of(VOCABULARY)
    return torch.tensor([[row_of[token] for token in ids]])
