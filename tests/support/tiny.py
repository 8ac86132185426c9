"""Tiny tokenizers, codecs, models and documents for the tests of documents, data and training."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import VQModel
from PIL import Image as PILImage
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, PreTrainedTokenizerFast

from jam.api.model import Model
from jam.checkpoints import Manifest
from jam.codec import Codec, ImageTokenizer, describe_image_tokenizer, load_image_tokenizer
from jam.codec.images import IMAGE_TOKENIZER_FOLDER
from jam.documents import Document, Image, Message, Part, Text
from jam.generation import GenerationSettings
from jam.grammar import Grammar
from jam.models import CrossConfig, CrossForCausalLM, SingleDecoder
from jam.vocabulary import ParentRows, Vocabulary

CODES, GRID, SENTINELS = 12, (2, 2), 8
IMAGE_TOKENS = GRID[0] * GRID[1]
SENTENCES = ["First draw a red house.", " Then, 2 trees — très verts!\n", "How do I draw it?", " ", "雨 </s> end", "a"]


def text_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE whose `</s>` is id 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="</s>", eos_token="</s>")


def space_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A BPE that puts a space in front of a text: by Metaspace ("first", "always") or a normalizer ("prepend")."""
    space = "\u2581"
    merges = [(space, space), (space, "a"), (space, "t"), ("r", "e")]
    letters = [space, *map(chr, range(33, 127))]
    names = ["</s>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters, *map("".join, merges)]
    vocabulary = {name: index for index, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    if kind == "prepend":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(space), normalizers.Replace(" ", space)])
        steps = [decoders.Replace(space, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind, split=False)
        steps = [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=kind, split=False)]
    tokenizer.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="</s>", eos_token="</s>", unk_token="<unk>")


def save_vq(folder: Path) -> None:
    """A random `diffusers` VQ model: pictures of 4 x 4 pixels, `GRID` codes."""
    torch.manual_seed(0)
    VQModel(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=2 * GRID[0],
        num_vq_embeddings=CODES,
    ).save_pretrained(folder)


def image_tokenizer(folder: Path) -> ImageTokenizer:
    if not folder.is_dir():
        save_vq(folder)
    assert describe_image_tokenizer(folder).grid == GRID
    return load_image_tokenizer(folder)


def codec(images: ImageTokenizer | None = None, tokenizer: PreTrainedTokenizerFast | None = None) -> Codec:
    tokenizer = tokenizer or text_tokenizer()
    vocabulary = Vocabulary(len(tokenizer), CODES, tokenizer.eos_token_id, SENTINELS)
    return Codec(vocabulary, Grammar(vocabulary, GRID), tokenizer, images)


def picture(seed: int, size: tuple[int, int] = (4, 4)) -> PILImage.Image:
    return PILImage.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def drawn(rng: np.random.Generator) -> Image:
    return Image(codes=rng.integers(0, CODES, IMAGE_TOKENS).tolist())


def random_parts(rng: np.random.Generator, most: int = 6) -> list[Part]:
    """Texts and pictures in any order: neighbours of one kind, pictures first and last."""
    count = int(rng.integers(1, most + 1))
    return [drawn(rng) if rng.random() < 0.5 else Text(str(rng.choice(SENTENCES))) for _ in range(count)]


def random_document(rng: np.random.Generator) -> Document:
    """Content, or a conversation of one to three questions."""
    if rng.random() < 0.5:
        return Document(content=random_parts(rng))
    turns = [
        Message(role, random_parts(rng, 3)) for _ in range(int(rng.integers(1, 4))) for role in ("user", "assistant")
    ]
    return Document(messages=turns)


def network(
    kind: str,
    vocabulary: Vocabulary,
    context: int = 64,
    seed: int = 0,
    readout: str = "exact",
    tied: bool = False,
    **changes: Any,
) -> Any:
    """A random joint model: "cross" or "single"; `tied`: the Llama has one table for input and output."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "max_position_embeddings": context}
    rows = ParentRows(vocabulary.text_size, vocabulary.image_start, vocabulary.control_start, vocabulary.control_size)
    image = LlamaConfig(vocab_size=vocabulary.size, tie_word_embeddings=tied, **sizes)
    if kind == "single":
        return SingleDecoder(LlamaForCausalLM(image), vocabulary, GRID, rows)
    opt = {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 48, "num_hidden_layers": 2, "dropout": 0.0}
    opt |= {"num_attention_heads": 4, "max_position_embeddings": context, "vocab_size": vocabulary.text_size}
    config = CrossConfig(
        text_config=OPTConfig(**(opt | changes)),
        image_config=image,
        vocabulary=vocabulary.to_dict(),
        image_grid=list(GRID),
        text_rows=asdict(ParentRows(vocabulary.text_size)),
        image_rows=asdict(rows),
        cross_every=1,
        readout=readout,
    )
    return CrossForCausalLM(config)


def model(folder: Path, kind: str = "cross", **changes: Any) -> Model:
    """A whole model folder (with `image_tokenizer/`) and the model in it, loaded or just made."""
    folder.mkdir(parents=True, exist_ok=True)
    made = codec(image_tokenizer(folder / IMAGE_TOKENIZER_FOLDER))
    joint = network(kind, made.vocabulary, **changes)
    manifest = Manifest("fused", method=kind, vocabulary=made.vocabulary.to_dict(), image_grid=list(GRID))
    if kind == "single":
        manifest.rows = asdict(joint.joint_rows.rows)
    return Model(folder, joint, made, manifest, GenerationSettings())
