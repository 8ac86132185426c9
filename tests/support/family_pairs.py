"""Pairs of tiny random parents of unlike families, and what a cross model of them must give."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from transformers import (
    ChameleonForConditionalGeneration,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    JanusForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from jam.grammar import State
from jam.models import CrossConfig, CrossForCausalLM
from jam.vocabulary import ParentRows, Vocabulary
from support.families import (
    CODES,
    LINEAR,
    SIZES,
    VOCABULARY,
    WHOLE,
    WINDOW,
    chameleon,
    decoder_tensors,
    janus,
    randomised,
    text_logits,
)

IMAGE_SIZES = SIZES | {"vocab_size": VOCABULARY + CODES}
JOINT = Vocabulary(text_size=VOCABULARY, image_size=CODES, eos_id=2, sentinels=4)
ROWS = ParentRows(VOCABULARY), ParentRows(VOCABULARY, VOCABULARY)
OWN, OWN_CODES = slice(0, VOCABULARY), slice(VOCABULARY, VOCABULARY + CODES)


def qwen2(**changes: Any) -> Any:
    window = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 2}
    return Qwen2ForCausalLM(Qwen2Config(**SIZES | window | {"num_hidden_layers": 4} | changes))


def wide_gemma3(**changes: Any) -> Any:
    sizes = IMAGE_SIZES | {"hidden_size": 48, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 20}
    rope = {WHOLE: LINEAR, WINDOW: {"rope_type": "default", "rope_theta": 10.0}}
    windows = {"sliding_window": 5, "layer_types": [WINDOW, WHOLE, WINDOW], "rope_parameters": rope}
    return Gemma3ForCausalLM(Gemma3TextConfig(**sizes | windows | {"final_logit_softcapping": 2.0} | changes))


def gemma2(**changes: Any) -> Any:
    caps = {"head_dim": 8, "sliding_window": 5, "attn_logit_softcapping": 1.5, "final_logit_softcapping": 2.0}
    return Gemma2ForCausalLM(Gemma2Config(**SIZES | caps | {"attn_implementation": "eager"} | changes))


def llama(**changes: Any) -> Any:
    return LlamaForCausalLM(LlamaConfig(**SIZES | changes))


PAIRS: dict[str, Any] = {
    "qwen2 gemma3": lambda: (qwen2(), wide_gemma3()),
    "gemma2 llama": lambda: (gemma2(), llama(**IMAGE_SIZES)),
    "qwen2 chameleon": lambda: (
        qwen2(),
        ChameleonForConditionalGeneration(chameleon(vocab_size=VOCABULARY + CODES, swin_norm=True)),
    ),
    "gemma3 janus": lambda: (wide_gemma3(vocab_size=VOCABULARY), JanusForConditionalGeneration(janus())),
}


def cross_of(text: Any, image: Any, readout: str = "exact") -> CrossForCausalLM:
    config = CrossConfig(
        text_config=text.config,
        image_config=image.config,
        vocabulary=JOINT.to_dict(),
        image_grid=[4, 4],
        text_rows=asdict(ROWS[0]),
        image_rows=asdict(ROWS[1]),
        cross_every=1,
        readout=readout,
    )
    return CrossForCausalLM(config).eval()


def with_parents(name: str) -> tuple[CrossForCausalLM, Any, Any]:
    text, image = (randomised(model) for model in PAIRS[name]())
    model = cross_of(text, image)
    model.text_tower.model.load_state_dict(decoder_tensors(text))
    model.image_tower.model.load_state_dict(decoder_tensors(image))
    return model, text, image


def image_logits(model: Any, rows: Tensor) -> Tensor:
    """Logits [B, T, codes] of an image parent, whose codes are the rows behind those of the text."""
    if not isinstance(model, JanusForConditionalGeneration):
        return text_logits(model, rows)[..., OWN_CODES]
    texts = model.get_input_embeddings()(rows.clamp(max=VOCABULARY - 1))
    codes = model.prepare_embeddings_for_image_generation((rows - VOCABULARY).clamp(min=0))
    embedded = torch.where((rows < VOCABULARY)[..., None], texts, codes)
    return model.model.generation_head(model.model.language_model(inputs_embeds=embedded).last_hidden_state)


def assert_exact(fused: CrossForCausalLM, text: Any, image: Any, text_size: int = VOCABULARY) -> None:
    """Difference 0; with Janus the rows of the codes are made in another order of sums."""
    written = fused.config.joint_vocabulary
    ids = torch.tensor([[2, 5, 3, 7, 11, 4, 9, 1, 6, 8, 10, 3]])
    with torch.no_grad():
        got = fused.logits(fused.hidden(ids), torch.full(ids.shape, State.TEXT))[..., :text_size]
        assert (got - text_logits(text, ids)[..., :text_size]).abs().max() == 0
        codes = torch.tensor([[2, 5, 3, *range(VOCABULARY, VOCABULARY + 9)]])
        joint = torch.where(codes >= VOCABULARY, codes - VOCABULARY + written.image_start, codes)
        got = fused.logits(fused.hidden(joint), torch.full(ids.shape, State.IMAGE))
        got = got[..., written.image_start : written.control_start]
        difference = (got - image_logits(image, codes)).abs().max()
        assert difference <= (1e-5 if isinstance(image, JanusForConditionalGeneration) else 0)
