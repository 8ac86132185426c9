"""Checkpoints that hold more than a decoder, and the fusion of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import (
    ChameleonForConditionalGeneration,
    Emu3ForConditionalGeneration,
    Gemma3ForConditionalGeneration,
    JanusForConditionalGeneration,
)

from jam.fusion import FusionPlan, fuse
from support.families import CODES, VOCABULARY, chameleon, emu3, gemma3, janus, randomised
from support.fusion_parents import settings, tokenizer

UNNAMED = {"<image>": 3}
COMPOSITES: dict[str, Any] = {
    "emu3": lambda: Emu3ForConditionalGeneration(emu3(vocab_size=VOCABULARY + CODES)),
    "emu3-tied": lambda: Emu3ForConditionalGeneration(emu3(vocab_size=VOCABULARY + CODES, tie_word_embeddings=True)),
    "chameleon": lambda: ChameleonForConditionalGeneration(
        chameleon(vocab_size=VOCABULARY + CODES, vocabulary_map=UNNAMED)
    ),
    "gemma3": lambda: Gemma3ForConditionalGeneration(gemma3(vocab_size=VOCABULARY + CODES, sliding_window=5)),
    "janus": lambda: JanusForConditionalGeneration(janus()),
    "janus-tied": lambda: JanusForConditionalGeneration(janus(tied=True)),
}


def save(folder: Path, model: Any) -> Any:
    randomised(model).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return model


def run(folder: Path, **changes: Any) -> FusionPlan:
    """Tables have more rows than the tokenizer has ids."""
    return fuse(settings(folder, image_start=VOCABULARY, **changes), (CODES, (4, 4)))
