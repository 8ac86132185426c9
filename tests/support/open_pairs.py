"""The pairs of docs/method.md, section 9, as tiny random checkpoints of the same classes and config fields.

Each function saves a text parent and an image parent into a folder. Janus and Emu3 hold their image tokenizers, as on
the hub; the others have theirs in `image_tokenizer/`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Emu3ImageProcessor,
    GemmaConfig,
    GemmaForCausalLM,
    JanusForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from support import tiny
from support.families import janus, randomised
from support.image_map_pairs import BASE, CODES, LETTERS, network, save_image_tokenizer, tokenizer
from support.image_map_pairs import entries as named_entries
from support.unlike_tokenizers import byte_level, sentencepiece

LETTERS_ONLY = {name: row for row, name in enumerate([*BASE, *LETTERS])}
IDS = len(LETTERS_ONLY)
PADDED = IDS + 6  # rows of a table that is longer than its tokenizer
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None, "max_position_embeddings": 256}


def save(folder: Path, model: Any, names: dict[str, int], dtype: torch.dtype) -> None:
    randomised(model).to(dtype).save_pretrained(folder)
    tokenizer(names).save_pretrained(folder / "tokenizer")


def qwen_and_simplear(folder: Path, dtype: torch.dtype) -> None:
    """Grouped keys, one table for both ends, codes behind the ids; the LLM's table is padded."""
    sizes = SPECIAL | {"hidden_size": 56, "num_hidden_layers": 4, "num_attention_heads": 14, "num_key_value_heads": 2}
    sizes |= {"intermediate_size": 304, "tie_word_embeddings": True, "use_sliding_window": False}
    for role, rows in (("text", PADDED), ("image", IDS + tiny.CODES)):
        save(folder / role, Qwen2ForCausalLM(Qwen2Config(vocab_size=rows, **sizes)), LETTERS_ONLY, dtype)
    tiny.save_vq(folder / "image" / "image_tokenizer")


def deepseek_and_janus(folder: Path, dtype: torch.dtype) -> None:
    """Codes that are read through an MLP and written by a GELU MLP; 4 pixels a code, as in the image encoder."""
    sizes = SPECIAL | {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4}
    sizes |= {"intermediate_size": 86, "vocab_size": PADDED}
    save(folder / "text", LlamaForCausalLM(LlamaConfig(**sizes)), LETTERS_ONLY, dtype)
    image = janus(vq={"channel_multiplier": [1, 1, 1]}, **sizes)
    save(folder / "image", JanusForConditionalGeneration(image), LETTERS_ONLY, dtype)


def gemma_and_liquid(folder: Path, dtype: torch.dtype) -> None:
    """Heads that are wider together than the model, one table for both ends; Chameleon's VQGAN."""
    sizes = SPECIAL | {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4}
    sizes |= {"head_dim": 16, "intermediate_size": 384, "tie_word_embeddings": True}
    for role, rows in (("text", PADDED), ("image", IDS + CODES)):
        save(folder / role, GemmaForCausalLM(GemmaConfig(vocab_size=rows, **sizes)), LETTERS_ONLY, dtype)
    save_image_tokenizer("chameleon", folder / "image" / "image_tokenizer")


def chameleon_and_anole(folder: Path, dtype: torch.dtype) -> None:
    """Codes among the text ids, in order; norms on queries and keys."""
    _named(folder, "chameleon", dtype)


def emu3_chat_and_gen(folder: Path, dtype: torch.dtype) -> None:
    """Codes among the text ids, in no order; grouped keys."""
    _named(folder, "emu3", dtype)


def llama_and_chameleon(folder: Path, dtype: torch.dtype) -> None:
    """Text by a tokenizer as Llama 2's."""
    _llama_beside("chameleon", sentencepiece(), folder, dtype)


def llama_and_emu3(folder: Path, dtype: torch.dtype) -> None:
    """Text by a tokenizer as Llama 3's."""
    _llama_beside("emu3", byte_level(), folder, dtype)


def _llama_beside(family: str, own: PreTrainedTokenizerFast, folder: Path, dtype: torch.dtype) -> None:
    _named(folder, family, dtype, roles=("image",))
    sizes = SPECIAL | {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
    llama = LlamaForCausalLM(LlamaConfig(vocab_size=len(own), intermediate_size=86, **sizes))
    randomised(llama).to(dtype).save_pretrained(folder / "text")
    own.save_pretrained(folder / "text" / "tokenizer")


def _named(folder: Path, family: str, dtype: torch.dtype, roles: tuple[str, ...] = ("text", "image")) -> None:
    for role in roles:
        save(
            folder / role, network(family, role, tied=False, max_position_embeddings=256), named_entries(family), dtype
        )
    if family == "emu3":
        Emu3ImageProcessor(min_pixels=36, max_pixels=144).save_pretrained(folder / "image")
    else:
        save_image_tokenizer(family, folder / "image" / "image_tokenizer")


def unequal_shapes(folder: Path, dtype: torch.dtype) -> None:
    """24 layers beside 12, and d 56 beside 32: a sixteenth of 896 and 512."""
    sizes = SPECIAL | {"num_hidden_layers": 24, "hidden_size": 56, "num_attention_heads": 14, "num_key_value_heads": 2}
    text = Qwen2Config(vocab_size=PADDED, intermediate_size=304, tie_word_embeddings=True, **sizes)
    save(folder / "text", Qwen2ForCausalLM(text), LETTERS_ONLY, dtype)
    sizes |= {"num_hidden_layers": 12, "hidden_size": 32, "num_attention_heads": 8, "num_key_value_heads": 8}
    image = LlamaConfig(vocab_size=IDS + tiny.CODES, intermediate_size=86, **sizes)
    save(folder / "image", LlamaForCausalLM(image), LETTERS_ONLY, dtype)
    tiny.save_vq(folder / "image" / "image_tokenizer")


# By the row's name in the README; the kind is that of its image tokenizer.
OPEN_PAIRS: dict[str, tuple[Callable[[Path, torch.dtype], None], str]] = {
    "Qwen2.5, SimpleAR": (qwen_and_simplear, "VQModel"),
    "DeepSeek-LLM, Janus-Pro": (deepseek_and_janus, "janus_vqgan"),
    "Gemma, Liquid": (gemma_and_liquid, "jam_chameleon_vqgan"),
    "Chameleon or Lumina-mGPT, Anole": (chameleon_and_anole, "jam_chameleon_vqgan"),
    "Emu3-Chat, Emu3-Gen": (emu3_chat_and_gen, "emu3_vqgan"),
    "Llama 2, Chameleon or Anole": (llama_and_chameleon, "jam_chameleon_vqgan"),
    "Llama 3, Emu3-Gen": (llama_and_emu3, "emu3_vqgan"),
    "unequal shapes": (unequal_shapes, "VQModel"),
}
