"""Parents of unlike families and unlike tokenizers: each row of published pairs that share no tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    ChameleonForConditionalGeneration,
    Emu3ForConditionalGeneration,
    GemmaConfig,
    GemmaForCausalLM,
    JanusForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
)

from jam.vocabulary import ranges
from support import tiny
from support.families import SIZES, chameleon, emu3, janus
from support.unlike_pairs import assert_proved_and_writing, run
from support.unlike_tokenizers import added, byte_level, sentencepiece, unigram

CHAMELEON = [f"IMGIMG{''.join(chr(65 + int(digit)) for digit in str(code))}Z" for code in range(tiny.CODES)]
EMU3 = [f"<|visual token {code:06d}|>" for code in range(tiny.CODES)]
ROOM = 6  # rows of a table behind those in use


def llama(tokenizer: Any, rows: int) -> Any:
    return LlamaForCausalLM(LlamaConfig(**SIZES | {"vocab_size": rows}))


def gemma(tokenizer: Any, rows: int) -> Any:
    return GemmaForCausalLM(GemmaConfig(**SIZES | {"vocab_size": rows, "hidden_size": 48}, head_dim=8))


def chameleon_model(tokenizer: Any, rows: int) -> Any:
    names = tokenizer.get_vocab()
    config = chameleon(vocab_size=rows, vocabulary_map={name: names[name] for name in CHAMELEON} | {"<image>": 3})
    return ChameleonForConditionalGeneration(config)


def emu3_model(tokenizer: Any, rows: int) -> Any:
    names = tokenizer.get_vocab()
    return Emu3ForConditionalGeneration(emu3({name: names[name] for name in EMU3}, vocab_size=rows))


def janus_model(tokenizer: Any, rows: int) -> Any:
    config = janus(vocab_size=rows)
    config.vq_config.num_embeddings = tiny.CODES
    return JanusForConditionalGeneration(config)


def named(make: Callable[[], Any], names: list[str]) -> Any:
    return added(make(), *names, special=True)


# Text parent and image parent: their model, tokenizer, and rows behind the tokenizer's ids.
PAIRS: dict[str, Any] = {
    "llama chameleon": ((llama, sentencepiece(), 0), (chameleon_model, named(byte_level, CHAMELEON), ROOM)),
    "llama emu3": ((llama, byte_level(), ROOM), (emu3_model, named(sentencepiece, EMU3), ROOM)),
    "gemma janus": ((gemma, unigram(), 0), (janus_model, byte_level(), ROOM)),
    "llama gemma": ((llama, byte_level(), 0), (gemma, sentencepiece(), tiny.CODES)),
    "chameleon emu3": ((chameleon_model, named(byte_level, CHAMELEON), 0), (emu3_model, named(sentencepiece, EMU3), 0)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_pair_is_exact_and_draws(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    for role, (make, tokenizer, more) in zip(("text", "image"), PAIRS[name], strict=True):
        model = make(tokenizer, len(tokenizer) + more)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(tmp_path / role)
        tokenizer.save_pretrained(tmp_path / role)
    tiny.save_vq(tmp_path / "image" / "image_tokenizer")
    plan = run(tmp_path, every=2)
    assert plan.config.image_rows["made_text"]
    text = PAIRS[name][0][1]
    names = [text.convert_tokens_to_ids(token) for token in CHAMELEON if token in text.get_vocab()]
    assert plan.vocabulary.text_image_ids == ranges(names)
    assert_proved_and_writing(tmp_path)
