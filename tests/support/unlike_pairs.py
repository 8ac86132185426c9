"""Pairs of small random parents whose tokenizers or sizes differ, their proof, and a page that they write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

import jam
from jam.cli import main
from jam.codec import describe_image_tokenizer
from jam.documents import Document, Image, Text, write_documents
from jam.fusion import FusionPlan, fuse
from support import tiny
from support.fusion_parents import settings
from support.unlike_tokenizers import byte_level, sentencepiece
from support.writing import begin_pictures

SENTENCE = "there is the red house, and how is it drawn?"
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
}


def save(folder: Path, tokenizer: Any, codes: int = 0, make: Any = LlamaForCausalLM, **sizes: Any) -> Any:
    """A random parent whose codes stand behind its tokenizer's ids."""
    config_class = {LlamaForCausalLM: LlamaConfig, Qwen2ForCausalLM: Qwen2Config}[make]
    config = config_class(**SMALL | {"vocab_size": len(tokenizer) + codes} | sizes)
    model = make(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if codes:
        tiny.save_vq(folder / "image_tokenizer")
    return model.eval()


def save_pair(folder: Path, text: Any = byte_level, image: Any = sentencepiece, **sizes: Any) -> list[Any]:
    torch.manual_seed(0)
    return [
        save(folder / "text", text(), **sizes),
        save(folder / "image", image(), tiny.CODES),
    ]


def run(folder: Path, **changes: Any) -> FusionPlan:
    info = describe_image_tokenizer(folder / "image" / "image_tokenizer")
    return fuse(
        settings(folder, **({"every": 1} if changes.get("method", "cross") == "cross" else {}) | changes),
        (info.codebook_size, info.grid),
    )


def verified(folder: Path, *more: str) -> tuple[int, dict[str, Any]]:
    path = folder / "proof.json"
    status = main(["verify", str(folder / "out"), "--device", "cpu", "--json", str(path), "--answer-ids", "4", *more])
    return status, json.loads(path.read_text())


def write_page(path: Path) -> str:
    """Texts with tokens, letters and bytes, and pictures."""
    pictures = [Image(codes=[code, 3, 5, 11]) for code in range(3)]
    texts = [Text("The red house is 日本 there; "), Text("draw it\n"), Text("the end 🙂")]
    write_documents(path, [Document([Text(SENTENCE)]), Document([*texts[:2], pictures[0], texts[2], *pictures[1:]])])
    return str(path)


def assert_proved_and_writing(folder: Path) -> None:
    """`jam verify` says exact, and the model writes a page with a picture."""
    status, report = verified(folder, "--documents", write_page(folder / "page.jsonl"))
    assert (status, report["verdict"], report["max_logit_difference"]) == (0, "exact", 0.0)
    assert report["text"]["tokens"] > 20 and report["image"]["tokens"] == 3 * tiny.IMAGE_TOKENS
    assert not any(report["changed_tensors"].values())
    model = jam.load(folder / "out", device="cpu")
    begin_pictures(model)
    page = model.generate(Document(content=[Text("the red house")]), max_new_tokens=20, max_images=1, seed=3)
    (drawn,) = (part for part in page.content if isinstance(part, Image))
    assert drawn.codes is not None and len(drawn.codes) == tiny.IMAGE_TOKENS and drawn.load().size == (4, 4)
