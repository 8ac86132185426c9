"""Training of the built-in tiny parents: an image tokenizer, a text parent and an image parent (`make parents`).

The text parent reads text-only tutorials, the image parent reads captioned pictures; no parent sees the other parent's
documents or the held-out pairs of thing and colour. Both are Llama decoders of one shape, so that every method can fuse
them. Finished stages are kept: after an interrupt, an equal command continues with the next stage.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from jam.api.model import Model
from jam.api.training import make_trainer
from jam.checkpoints import Manifest, new_folder, write_json
from jam.codec import Codec, ImageTokenizer, load_image_tokenizer
from jam.codec.images import IMAGE_TOKENIZER_FOLDER
from jam.console import Console
from jam.console.progress import track
from jam.console.training import run_training
from jam.demo.image_tokenizer import build_image_tokenizer, train_image_tokenizer
from jam.demo.setup import VALIDATION_SEED, write_shards
from jam.generation import GenerationSettings
from jam.grammar import Grammar
from jam.models import SingleDecoder
from jam.training import DataSource, TrainConfig
from jam.tutorials.corpora import captioned_pictures, text_tutorials
from jam.tutorials.things import RESOLUTION
from jam.vocabulary import ParentRows, Vocabulary

CONTEXT = 1024
SENTINELS = 16
TEXT_DOCUMENTS, CAPTIONS, VALIDATION = 60_000, 60_000, 256
# Standard deviation of the image rows from pixels; other rows start with 0.02.
PIXEL_STD = 0.1


def build_text_tokenizer(texts: Iterable[str], vocab_size: int = 1024) -> PreTrainedTokenizerFast:
    """A byte-level BPE; at the default size, every word of the built-in world is one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="</s>", eos_token="</s>")


def decoder(vocab_size: int, eos_id: int, seed: int) -> LlamaForCausalLM:
    """A fresh Llama decoder of the tiny parents' shape."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=6,
            max_position_embeddings=CONTEXT,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            bos_token_id=eos_id,
            eos_token_id=eos_id,
        )
    )


@torch.no_grad()
def start_from_pixels(table: Tensor, image_tokenizer: ImageTokenizer, seed: int) -> None:
    """Set the rows of image codes ``table [codes, hidden]`` to the pixels of their blocks, in a random rotation.

    Rows of blocks of one colour or one shape are then near each other from the start. From random rows, the parent
    learns each pair of shape and colour apart, and fails at unseen pairs (docs/demo-world.md).
    """
    info = image_tokenizer.info
    codes = torch.arange(info.codebook_size)[:, None, None].expand(-1, *info.grid)
    height, width = (RESOLUTION // side for side in info.grid)
    blocks = [np.asarray(picture)[:height, :width].flatten() for picture in image_tokenizer.decode(codes)]
    pixels = torch.from_numpy(np.stack(blocks)).float()
    pixels -= pixels.mean(0)
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(pixels.shape[1], table.shape[1], generator=generator)).Q
    table.copy_(PIXEL_STD * pixels @ rotation / pixels.std())


def parent(network: LlamaForCausalLM, vocabulary: Vocabulary, rows: ParentRows, folder: Path, codec: Codec) -> Model:
    """A parent as a `Model`, for training, measuring and saving."""
    grid = codec.image_tokenizer.info.grid if codec.image_tokenizer else (0, 0)
    manifest = Manifest("parent", vocabulary=vocabulary.to_dict(), image_grid=list(grid), rows=asdict(rows))
    return Model(folder, SingleDecoder(network, vocabulary, grid, rows), codec, manifest, GenerationSettings())


def train_parent(model: Model, config: TrainConfig, out: Path, console: Console, what: str) -> None:
    """Train a parent and write its folder, with weights in float16 (the package contains them)."""
    trainer = make_trainer(model, config)
    run_training(trainer, what, console)
    model.joint.half()
    with new_folder(out) as folder:
        model.save(folder)
    console.print(f"{what}: validation {trainer.validation_report}")


def make_image_tokenizer(out: Path, steps: int, console: Console) -> None:
    model = build_image_tokenizer()
    for _ in track(train_image_tokenizer(model, steps), steps, "training the image tokenizer", console):
        pass
    with new_folder(out) as folder:
        model.eval().half().save_pretrained(folder)
        write_json(folder / "preprocessor_config.json", {"size": {"height": RESOLUTION, "width": RESOLUTION}})


def train_text_parent(out: Path, tokenizer: PreTrainedTokenizerFast, steps: int, console: Console) -> None:
    text_size, eos_id = len(tokenizer), tokenizer.eos_token_id
    vocabulary = Vocabulary(text_size, 0, eos_id, sentinels=0)
    codec = Codec(vocabulary, Grammar(vocabulary), tokenizer)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        shards = write_shards(text_tutorials(0), TEXT_DOCUMENTS, codec, scratch / "train", "texts", console)
        validation = write_shards(
            text_tutorials(VALIDATION_SEED), VALIDATION, codec, scratch / "validation", "validation texts", console
        )
        model = parent(decoder(text_size, eos_id, seed=1), vocabulary, ParentRows(text_size), out, codec)
        train_parent(model, recipe(scratch / "run", shards, validation, steps), out, console, "text parent")


def train_image_parent(
    out: Path, tokenizer: PreTrainedTokenizerFast, image_tokenizer: Path, steps: int, console: Console
) -> None:
    text_size, eos_id = len(tokenizer), tokenizer.eos_token_id
    images = load_image_tokenizer(image_tokenizer)
    vocabulary = Vocabulary(text_size, images.info.codebook_size, eos_id, SENTINELS)
    codec = Codec(vocabulary, Grammar(vocabulary, images.info.grid), tokenizer, images)
    rows = ParentRows(text_size, vocabulary.image_start, vocabulary.control_start, vocabulary.control_size)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        documents, held_out = captioned_pictures(0), captioned_pictures(VALIDATION_SEED)
        shards = write_shards(documents, CAPTIONS, codec, scratch / "train", "captions", console)
        validation = write_shards(held_out, VALIDATION, codec, scratch / "validation", "validation captions", console)
        network = decoder(vocabulary.size, eos_id, seed=2)
        table = network.model.embed_tokens.weight[vocabulary.image_start : vocabulary.control_start]
        start_from_pixels(table, images, seed=3)
        # `Model.save` copies the image tokenizer in the model's folder.
        model = parent(network, vocabulary, rows, image_tokenizer.parent, codec)
        train_parent(model, recipe(scratch / "run", shards, validation, steps), out, console, "image parent")


def make_parents(out: Path, tokenizer_steps: int, text_steps: int, image_steps: int, console: Console) -> None:
    """Train tokenizers and parents, and write `out/text` and `out/image` (with `image_tokenizer/`)."""
    image_tokenizer = out / IMAGE_TOKENIZER_FOLDER
    corpora = (islice(text_tutorials(0), 3000), islice(captioned_pictures(0), 3000))
    tokenizer = build_text_tokenizer(text for corpus in corpora for document in corpus for text in document.texts)
    if not (out / "text").exists():
        train_text_parent(out / "text", tokenizer, text_steps, console)
    if not (out / "image").exists():
        if not image_tokenizer.exists():
            make_image_tokenizer(image_tokenizer, tokenizer_steps, console)
        train_image_parent(out / "image", tokenizer, image_tokenizer, image_steps, console)
        shutil.rmtree(image_tokenizer)


def recipe(run: Path, shards: Path, validation: Path, steps: int) -> TrainConfig:
    return TrainConfig(
        model="",
        out=str(run),
        sources=[DataSource(str(shards))],
        validation=[str(validation)],
        stage="parent",
        steps=steps,
        context=256,
        batch_tokens=256 * 8,
        micro_batch_size=8,
        optimizer="muon",
        lr=2e-3,
        warmup_steps=min(100, steps // 10),
        min_lr_ratio=0.02,
        beta2=0.98,
        cm3=False,
        image_weight=4.0,
        unconditional_rate=0.1,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write text/ and image/ into")
    parser.add_argument("--tokenizer-steps", type=int, default=2000)
    parser.add_argument("--text-steps", type=int, default=1200)
    parser.add_argument("--image-steps", type=int, default=4000)
    arguments = parser.parse_args()
    console = Console()
    started = time.perf_counter()
    arguments.out.mkdir(parents=True, exist_ok=True)
    make_parents(arguments.out, arguments.tokenizer_steps, arguments.text_steps, arguments.image_steps, console)
    minutes = (time.perf_counter() - started) / 60
    console.print(f"{arguments.out}: text parent, image parent and image tokenizer, in {minutes:.0f} minutes")


if __name__ == "__main__":
    main()
