"""The whole road on your own documents: two random parents -> fuse, prepare, train, eval, generate -> a page.

    python examples/real_documents.py FOLDER... --tokenizer DIR --out DIR [--family opt|llama] [--documents 80]

A FOLDER has `documents.jsonl` with its pictures beside it; the tokenizer is a byte-level BPE (vocab.json, merges.txt).
The parents are saved by `transformers` and know nothing, so what comes out after a few steps is no sense: the road is
what this shows. With parents that were trained, use the same five commands.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import VQModel
from PIL import ImageOps
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from jam.cli import main as jam
from jam.documents import Document, read_documents, write_documents

CODES, GRID, PIXELS, CONTEXT = 1024, 8, 64, 512
PATCH = PIXELS // GRID
SEEDS = 8  # tries for a picture: after so little training, whether one is drawn is a matter of luck


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="folders with documents.jsonl and pictures")
    parser.add_argument("--tokenizer", required=True, type=Path, help="folder with vocab.json and merges.txt")
    parser.add_argument("--out", required=True, type=Path, help="folder to write; it must not exist")
    parser.add_argument("--family", choices=["opt", "llama"], default="opt", help="architecture of the parents")
    parser.add_argument("--documents", type=int, default=80, help="documents of each folder; one in ten is held out")
    parser.add_argument("--steps", type=int, default=30, help="training steps")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True)

    training, held_out = split_documents(arguments.folders, arguments.documents)
    write_documents(out / "training.jsonl", training)
    write_documents(out / "held-out.jsonl", held_out)
    tokenizer = load_bpe(arguments.tokenizer)
    save_parent(out / "text-parent", arguments.family, tokenizer, len(tokenizer))
    save_parent(out / "image-parent", arguments.family, tokenizer, len(tokenizer) + CODES)
    fit_image_tokenizer(training).save_pretrained(out / "image-parent" / "image_tokenizer")
    recipe = {
        "model": str(out / "fused"),
        "out": str(out / "run"),
        "sources": [{"path": str(out / "shards")}],
        "steps": arguments.steps,
        "batch_tokens": 4 * CONTEXT,
        "micro_batch_size": 2,
        "lr": 3e-3,
        "warmup_steps": 5,
    }
    (out / "recipe.yaml").write_text(json.dumps(recipe, indent=2))  # JSON is YAML

    run("fuse", "--text", out / "text-parent", "--image", out / "image-parent", "--out", out / "fused", "--every", 2)
    pictures = ("--allowed-media-path", os.path.commonpath([folder.resolve() for folder in arguments.folders]))
    run("prepare", out / "training.jsonl", "--model", out / "fused", "--out", out / "shards", *pictures)
    run("train", out / "recipe.yaml")
    model = out / "run" / "model"
    run("eval", model, out / "held-out.jsonl", "--json", out / "perplexity.json", *pictures)
    prompts = [beginning(document) for document in held_out[:3]]
    page = out / "page.html"
    for seed in range(SEEDS):
        run("generate", model, *prompts, "--out", page, "--max-new-tokens", 400, "--top-p", 1, "--seed", seed)
        if drawn := page.read_text().count("<img"):
            break
    else:
        raise SystemExit(f"no picture with seeds 0 to {SEEDS - 1}: the model needs more --steps")
    print(f"{page}: {len(prompts)} answers, {drawn} pictures, seed {seed}; {out}/perplexity.json: the perplexities")


def run(command: str, *arguments: object) -> None:
    """One `jam` command, shown as it would be typed."""
    words = [command, *map(str, arguments)]
    print(f"\n$ jam {shlex.join(words)}", flush=True)
    if status := jam(words):
        raise SystemExit(status)


def split_documents(folders: list[Path], limit: int) -> tuple[list[Document], list[Document]]:
    """The first documents of each folder, shuffled; one in ten is held out. Paths of pictures are made absolute."""
    documents = [
        document
        for folder in folders
        for document in islice(read_documents((folder / "documents.jsonl").resolve()), limit)
    ]
    random.Random(0).shuffle(documents)
    held_out = max(1, len(documents) // 10)
    return documents[held_out:], documents[:held_out]


def beginning(document: Document) -> str:
    """What to ask for: the question of a conversation, else the first words of the document."""
    return document.texts[0] if document.messages else " ".join(" ".join(document.texts).split()[:8])


def load_bpe(folder: Path) -> PreTrainedTokenizerBase:
    bpe = ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, bos_token="</s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def save_parent(folder: Path, family: str, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> None:
    """A random model of about 20M parameters. The image parent's vocabulary has its image codes behind the text ids."""
    torch.manual_seed(vocab_size)
    shape = {
        "vocab_size": vocab_size,
        "hidden_size": 256,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": True,
    }
    model: OPTForCausalLM | LlamaForCausalLM
    if family == "opt":
        plain = {"enable_bias": False, "layer_norm_elementwise_affine": False}  # as the paper's parents
        model = OPTForCausalLM(OPTConfig(**shape, **plain, word_embed_proj_dim=256, ffn_dim=1024, dropout=0.0))
    else:
        model = LlamaForCausalLM(LlamaConfig(**shape, intermediate_size=704))
    print(f"{folder}: {family}, {model.num_parameters() / 1e6:.1f}M parameters")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def fit_image_tokenizer(documents: list[Document], steps: int = 400) -> VQModel:
    """A tiny `VQModel` of 64 x 64 pixels and 8 x 8 codes, fitted to the documents' pictures for some seconds.

    First as an autoencoder without codebook; latents of the pictures then are the codebook.
    """
    torch.manual_seed(0)
    model = VQModel(
        in_channels=3 * PATCH**2,  # it reads blocks of 8 x 8 pixels
        out_channels=3 * PATCH**2,
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(64,),
        latent_channels=16,
        num_vq_embeddings=CODES,
        norm_num_groups=8,
        sample_size=GRID,
        mid_block_add_attention=False,
    )
    pictures = [ImageOps.fit(image.load(), (PIXELS, PIXELS)) for document in documents for image in document.images]
    if not pictures:
        raise SystemExit("these documents have no pictures")
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 127.5 - 1
    blocks = F.pixel_unshuffle(pixels, PATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(steps):
        batch = blocks[torch.randint(len(blocks), (16,))]
        loss = F.mse_loss(model.decode(model.encode(batch).latents, force_not_quantize=True).sample, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        latents = (
            torch.cat([model.encode(batch).latents for batch in blocks.split(64)]).permute(0, 2, 3, 1).flatten(0, 2)
        )
        model.quantize.embedding.weight.copy_(latents[torch.randperm(len(latents))[:CODES]])
    print(f"image tokenizer: {len(pictures)} pictures, mean squared error {loss.item():.3f} without codebook")
    return model


if __name__ == "__main__":
    main()
