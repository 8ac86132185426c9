"""Tiny pairs whose image codes lie among the text ids (Chameleon, Emu3), or behind them with padding (SimpleAR)."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import (
    ChameleonForConditionalGeneration,
    Emu3ForConditionalGeneration,
    Emu3VQVAE,
    Emu3VQVAEConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from jam.codec import describe_image_tokenizer
from jam.codec.chameleon_vqgan import ChameleonVQGAN, ChameleonVQGANConfig
from jam.fusion import FusionPlan, fuse
from support import tiny
from support.families import SIZES, chameleon, emu3, randomised
from support.fusion_parents import settings

CODES, PADDING = 16, 5
LETTERS = "abcdefghijklmnopqrstuvwxyz IMGABZ<|>0123456789"
BASE = ["<unk>", "<s>", "</s>", "<image>"]
VQ = {"base_channels": 32, "channel_multiplier": [1, 1, 1], "num_res_blocks": 1, "latent_channels": 8}


def chameleon_name(code: int) -> str:
    return f"IMGIMG{str(code).translate(str.maketrans('0123456789', 'ABCDEFGHIJ'))}Z"


def emu3_name(code: int) -> str:
    return f"<|visual token {code:06d}|>"


NAMES = {"chameleon": chameleon_name, "emu3": emu3_name}


def rows_of_codes(family: str) -> list[int]:
    """The row of every code: Chameleon's in order, Emu3's shuffled, Qwen's behind the letters."""
    first = len(BASE) + (len(LETTERS) if family == "qwen2" else 0)
    rows = list(range(first, first + CODES))
    if family == "emu3":
        random.Random(0).shuffle(rows)
    return rows


def entries(family: str) -> dict[str, int]:
    named = {NAMES[family](code): row for code, row in enumerate(rows_of_codes(family))} if family in NAMES else {}
    texts = [*BASE, *[None] * len(named), *LETTERS]
    return named | {name: row for row, name in enumerate(texts) if name is not None}


def tokenizer(vocabulary: dict[str, int], special: bool = True) -> PreTrainedTokenizerFast:
    """Letters, and names of image codes as special tokens (else as added ones that are not)."""
    made = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    made.decoder = decoders.Fuse()
    named = [AddedToken(name, special=special, normalized=False) for name in vocabulary if len(name) > 7]
    (made.add_special_tokens if special else made.add_tokens)(named)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", unk_token="<unk>")


def network(family: str, role: str, tied: bool = True, **changes: Any) -> Any:
    """`tied`: Emu3's image parent has one table for input and output."""
    names = entries(family)
    sizes: dict[str, Any] = {"vocab_size": len(names) + PADDING} | changes
    if family == "chameleon":
        return ChameleonForConditionalGeneration(chameleon(vocabulary_map=names, swin_norm=role == "image", **sizes))
    if family == "emu3":
        vq = {"codebook_size": CODES, "channel_multiplier": [1, 1], "num_attention_heads": 1}
        config = emu3(names, vq, tie_word_embeddings=tied and role == "image", **sizes)
        return Emu3ForConditionalGeneration(config)
    sizes["vocab_size"] = len(names) + (CODES + PADDING if role == "image" else 0)
    return Qwen2ForCausalLM(Qwen2Config(**SIZES | sizes))


def save_image_tokenizer(family: str, folder: Path) -> None:
    if family == "qwen2":
        tiny.save_vq(folder)
    elif family == "chameleon":
        config = VQ | {"embed_dim": 8, "num_embeddings": CODES, "resolution": 16}
        ChameleonVQGAN(ChameleonVQGANConfig(**config)).save_pretrained(folder)
    else:
        config = VQ | {"channel_multiplier": [1, 1], "codebook_size": CODES, "embed_dim": 4, "latent_channels": 4}
        config |= {"attn_resolutions": [], "hidden_size": 32, "num_attention_heads": 1, "temporal_downsample_factor": 2}
        Emu3VQVAE(Emu3VQVAEConfig(**config)).save_pretrained(folder)
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"sample_size": 6}))


def codes_of(family: str) -> int:
    return tiny.CODES if family == "qwen2" else CODES


def save_pair(family: str, folder: Path, tied: bool = True) -> list[Any]:
    """The parents, whose heads would rather write names of image codes than letters."""
    parents = []
    for role in ("text", "image"):
        model = randomised(network(family, role, tied))
        if family in NAMES and not model.config.tie_word_embeddings:
            with torch.no_grad():
                model.get_output_embeddings().weight[rows_of_codes(family)] *= 9
        model.save_pretrained(folder / role)
        tokenizer(entries(family)).save_pretrained(folder / role / "tokenizer")
        parents.append(model)
    save_image_tokenizer(family, folder / "image" / "image_tokenizer")
    return parents


def run(folder: Path, **changes: Any) -> FusionPlan:
    info = describe_image_tokenizer(folder / "image" / "image_tokenizer")
    if info.kind == "VQModel":  # the codes of a padded table without names
        changes = {"image_start": rows_of_codes("qwen2")[0]} | changes
    return fuse(settings(folder, **changes), (info.codebook_size, info.grid))
