"""Where image codes without names begin: the image parent alone says it, beside any text parent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from jam.cli import main
from jam.fusion import fuse
from support import layouts, tiny
from support.families import SIZES, randomised
from support.fusion_parents import CODES, IMAGE_TOKENIZER, TEXT_SIZE, llama_config, run, save_parent, settings
from support.unlike_tokenizers import byte_level

PADDING = 6
ROWS = SIZES | {"max_position_embeddings": 256}


def save_text_parents(folder: Path, model_class: Any, config_class: Any, tokenizer: Any) -> list[Path]:
    """As long as the tokenizer, or longer by less than, by as much as and by more than the image parent's padding."""
    size, places = len(tokenizer), []
    for rows in (size, size + PADDING // 2, size + PADDING, size + 2 * PADDING):
        places.append(folder / f"text-{rows}")
        randomised(model_class(config_class(**ROWS | {"vocab_size": rows}))).save_pretrained(places[-1])
        tokenizer.save_pretrained(places[-1] / "tokenizer")
    other = byte_level()
    randomised(LlamaForCausalLM(LlamaConfig(**ROWS | {"vocab_size": len(other)}))).save_pretrained(folder / "other")
    other.save_pretrained(folder / "other" / "tokenizer")
    return [*places, folder / "other"]


def save_image_parent(folder: Path, tokenizer: Any) -> None:
    config = Qwen2Config(**ROWS | {"vocab_size": len(tokenizer) + PADDING + tiny.CODES})
    randomised(Qwen2ForCausalLM(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder / "tokenizer")
    tiny.save_vq(folder / "image_tokenizer")


def test_a_padded_table_is_refused_beside_every_text_parent(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = tiny.text_tokenizer()
    ids = len(plain)
    save_image_parent(tmp_path / "image", plain)
    message = rf"not clear: .* --image-start {ids} or --image-start {ids + PADDING}$"
    for text in save_text_parents(tmp_path, Qwen2ForCausalLM, Qwen2Config, plain):
        config = settings(tmp_path, text=str(text), plan=True)
        with pytest.raises(ValueError, match=message):
            fuse(settings(tmp_path, text=str(text)), (tiny.CODES, (2, 2)))
        noted = fuse(config, (tiny.CODES, (2, 2)))
        assert any(f"--image-start {ids} or --image-start {ids + PADDING}; assumed: the last" in n for n in noted.notes)
        for start in (ids, ids + PADDING):
            config.image_start = start
            assert fuse(config, (tiny.CODES, (2, 2))).config.image_rows["image_start"] == start


def test_codes_of_simplear_are_behind_its_ids(tmp_path: Path) -> None:
    """In a padded table too, since its tokenizer has the family's tokens."""
    torch.manual_seed(0)
    own = layouts.tokenizer("simplear")
    save_image_parent(tmp_path / "image", own)
    texts = save_text_parents(tmp_path, Qwen2ForCausalLM, Qwen2Config, own)
    for text in texts:
        plan = fuse(settings(tmp_path, text=str(text), plan=True), (tiny.CODES, (2, 2)))
        assert plan.config.image_rows["image_start"] == len(own)
        assert any(note.startswith(f"image codes are rows {len(own)} to ") for note in plan.notes)
    for text in (texts[1], texts[-1]):
        fused = tmp_path / f"fused-{text.name}"
        assert main(["fuse", "--text", str(text), "--image", str(tmp_path / "image"), "--out", str(fused)]) == 0
        assert main(["verify", str(fused), "--device", "cpu"]) == 0


@pytest.mark.parametrize(("rows", "start"), [(TEXT_SIZE, TEXT_SIZE), (TEXT_SIZE + 4, None)])
def test_an_image_parent_without_tokenizer(rows: int, start: int | None, tmp_path: Path) -> None:
    """Its ids are taken to be the text parent's, whose table says nothing."""
    save_parent(tmp_path / "text", llama_config(rows), 1)
    save_parent(tmp_path / "image", llama_config(rows + CODES), 2)
    for path in (tmp_path / "image").glob("*token*"):
        path.unlink()
    if start is None:
        with pytest.raises(ValueError, match="--image-start 12 or --image-start 16"):
            run(tmp_path)
        start = 16
    plan = run(tmp_path, image_start=start if rows > TEXT_SIZE else None)
    assert plan.config.image_rows["image_start"] == start


def test_more_codes_than_rows(tmp_path: Path) -> None:
    save_parent(tmp_path / "text", llama_config(TEXT_SIZE), 1)
    save_parent(tmp_path / "image", llama_config(CODES - 1), 2)
    with pytest.raises(ValueError, match="has 5 rows, fewer than 6 image codes; give its own image tokenizer"):
        fuse(settings(tmp_path), IMAGE_TOKENIZER)
