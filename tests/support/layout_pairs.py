"""Pairs of tiny random parents of the families that have a layout of documents, each with its image tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import (
    ChameleonForConditionalGeneration,
    Emu3ForConditionalGeneration,
    Emu3VQVAE,
    Emu3VQVAEConfig,
    GemmaConfig,
    GemmaForCausalLM,
    JanusForConditionalGeneration,
    JanusVQVAE,
    JanusVQVAEConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from jam.codec import describe_image_tokenizer
from jam.codec.chameleon_vqgan import ChameleonVQGAN, ChameleonVQGANConfig
from jam.fusion import FusionPlan, fuse
from support import layouts, tiny
from support.families import SIZES, chameleon, emu3, janus, randomised
from support.fusion_parents import settings

VQ = {"base_channels": 32, "channel_multiplier": [1, 1, 1], "num_res_blocks": 1, "latent_channels": 8}
CODES = {"janus": 16, "liquid": tiny.CODES, "simplear": tiny.CODES}  # the others have 8
GRIDS = {"chameleon": (4, 4), "lumina-mgpt": (4, 4), "emu3": (3, 3), "janus": (3, 3)}  # the others' are (2, 2)
ROOM = {"max_position_embeddings": 512}


def network(family: str, role: str) -> Any:
    codes = CODES.get(family, 8)
    names = layouts.tokenizer(family, codes if family in layouts.NAMED else 0).get_vocab()
    size = {"vocab_size": len(names), **ROOM}
    if family in ("chameleon", "lumina-mgpt"):
        return ChameleonForConditionalGeneration(chameleon(vocabulary_map=names, **size))
    if family == "emu3":
        return Emu3ForConditionalGeneration(emu3(names=names, **size))
    if family == "janus":
        if role == "image":
            return JanusForConditionalGeneration(janus(**size))
        return LlamaForCausalLM(LlamaConfig(**SIZES | size))
    size["vocab_size"] += codes * (role == "image")
    if family == "liquid":
        return GemmaForCausalLM(GemmaConfig(**SIZES | size, head_dim=8))
    return Qwen2ForCausalLM(Qwen2Config(**SIZES | size))


def save_image_tokenizer(family: str, folder: Path) -> None:
    if family in ("liquid", "simplear"):
        tiny.save_vq(folder)
    elif family == "janus":
        shape = {"base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1, "embed_dim": 4}
        JanusVQVAE(JanusVQVAEConfig(**shape, num_embeddings=CODES["janus"], num_patches=3)).save_pretrained(folder)
    elif family == "emu3":
        config = VQ | {"channel_multiplier": [1, 1], "codebook_size": 8, "embed_dim": 4, "latent_channels": 4}
        config |= {"attn_resolutions": [], "hidden_size": 32, "num_attention_heads": 1, "temporal_downsample_factor": 2}
        Emu3VQVAE(Emu3VQVAEConfig(**config)).save_pretrained(folder)
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"sample_size": 6}))
    else:
        config = VQ | {"embed_dim": 8, "num_embeddings": 8, "resolution": 16}
        ChameleonVQGAN(ChameleonVQGANConfig(**config)).save_pretrained(folder)


def save_pair(family: str, folder: Path) -> None:
    for role in ("text", "image"):
        randomised(network(family, role)).save_pretrained(folder / role)
        named = CODES.get(family, 8) if family in layouts.NAMED else 0
        layouts.tokenizer(family, named).save_pretrained(folder / role / "tokenizer")
    save_image_tokenizer(family, folder / "image" / "image_tokenizer")


def run(folder: Path, **changes: Any) -> FusionPlan:
    info = describe_image_tokenizer(folder / "image" / "image_tokenizer")
    return fuse(settings(folder, **changes), (info.codebook_size, info.grid))
