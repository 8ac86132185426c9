"""Ids with a meaning of their own: those a tokenizer skips, of padding, and of the beginning of documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import jam
from jam.codec import Codec, load_tokenizer
from jam.documents import Document, Text
from jam.grammar import Grammar
from support.fusion_parents import CODES, TEXT_SIZE, llama_config, opened, run, save_pair, save_parent
from support.layout_pairs import run as run_family
from support.layout_pairs import save_pair as save_family

SINGLE = pytest.mark.parametrize("method", ["uniform", "width"])


# --- ids that a tokenizer skips ---------------------------------------------------------------------------------------


def save_with_a_hole(folder: Path) -> None:
    """Id 9, that of the letter "g", is nobody's; "g" is id 12."""
    save_parent(folder, llama_config(TEXT_SIZE + 1), 1)
    path = folder / "tokenizer.json"
    saved = json.loads(path.read_text())
    saved["model"]["vocab"]["g"] = TEXT_SIZE
    path.write_text(json.dumps(saved))


@pytest.mark.parametrize("method", ["cross", "uniform", "width"])
def test_a_tokenizer_that_skips_an_id(method: str, tmp_path: Path) -> None:
    save_with_a_hole(tmp_path / "text")
    save_with_a_hole(tmp_path / "image")
    save_parent(tmp_path / "codes", llama_config(TEXT_SIZE + 1 + CODES), 2)
    for name in ("model.safetensors", "config.json"):
        (tmp_path / "codes" / name).replace(tmp_path / "image" / name)
    plan = run(tmp_path, method=method)
    v = plan.vocabulary
    rows = plan.config.image_rows["image_start"] if method == "cross" else v.image_start
    assert v.text_size == v.image_start == rows == TEXT_SIZE + 1
    found = load_tokenizer(tmp_path / "out")
    assert len(found) == TEXT_SIZE
    encoded = Codec(v, Grammar(v, (2, 3)), found).encode(Document([Text("bcg")]))
    assert [v.name(token) for token in encoded.ids] == ["</s>", "<text:11>", "<text:12>", "</s>"]
    joint = jam.load(tmp_path / "out", device="cpu").joint
    assert joint.vocabulary == v


# --- padding ----------------------------------------------------------------------------------------------------------


@SINGLE
@pytest.mark.parametrize("pad", [1, TEXT_SIZE + 1, TEXT_SIZE + 7])
def test_a_padding_row_is_no_image_code(method: str, pad: int, tmp_path: Path) -> None:
    """A row behind the text ids that a parent pads with is not among the result's, where codes have its number."""
    save_parent(tmp_path / "text", llama_config(TEXT_SIZE + 8, pad_token_id=pad), 1)
    save_parent(tmp_path / "image", llama_config(TEXT_SIZE + 8 + CODES, pad_token_id=pad), 2)
    run(tmp_path, method=method, image_start=TEXT_SIZE + 8)
    model = opened(tmp_path / "out")
    assert model.config.pad_token_id == (1 if pad == 1 else None)
    table = model.get_input_embeddings()
    table(torch.arange(len(table.weight))).sum().backward()
    untrained = (table.weight.grad.abs().sum(1) == 0).nonzero().flatten().tolist()
    assert untrained == ([1] if pad == 1 else [])


@SINGLE
def test_a_padding_row_beyond_the_result(method: str, tmp_path: Path) -> None:
    save_parent(tmp_path / "text", llama_config(60, pad_token_id=59), 1)
    save_parent(tmp_path / "image", llama_config(60 + CODES, pad_token_id=59), 2)
    run(tmp_path, method=method, image_start=60)
    assert opened(tmp_path / "out").config.pad_token_id is None


# --- the beginning of documents ---------------------------------------------------------------------------------------


def ends_of(folder: Path) -> list[tuple[Any, Any]]:
    """(bos, eos) of the config, of its decoder, and of generation_config.json."""
    config = json.loads((folder / "config.json").read_text())
    found = [config, config.get("text_config", {}), json.loads((folder / "generation_config.json").read_text())]
    return [(one.get("bos_token_id"), one["eos_token_id"]) for one in found if "eos_token_id" in one]


@pytest.mark.parametrize(
    ("family", "method"), [("liquid", "cross"), ("liquid", "uniform"), ("liquid", "width"), ("emu3", "uniform")]
)
def test_the_beginning_of_a_familys_layout(family: str, method: str, tmp_path: Path) -> None:
    """Emu3's stands in the config of the decoder within."""
    torch.manual_seed(0)
    save_family(family, tmp_path)
    v = run_family(tmp_path, method=method).vocabulary
    assert v.layout is not None and v.begin_ids != (v.eos_id,)
    found = ends_of(tmp_path / "out")
    assert set(found if method != "cross" else found[-1:]) == {(v.begin_ids[0], v.eos_id)}
    (tmp_path / "again").mkdir()
    jam.load(tmp_path / "out", device="cpu").save(tmp_path / "again")
    assert ends_of(tmp_path / "again") == found


@SINGLE
def test_the_papers_documents_begin_as_they_end(method: str, tmp_path: Path) -> None:
    save_pair(tmp_path, llama_config)
    v = run(tmp_path, method=method).vocabulary
    assert ends_of(tmp_path / "out") == [(v.eos_id, v.eos_id)] * 2 and "begin" not in v.to_dict()


@SINGLE
def test_documents_that_begin_with_nothing(method: str, tmp_path: Path) -> None:
    save_pair(tmp_path, llama_config)
    path = tmp_path / "text" / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": None}))
    v = run(tmp_path, method=method).vocabulary
    assert v.begin_ids == () and ends_of(tmp_path / "out")[-1] == (None, v.eos_id)
