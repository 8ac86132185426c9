"""Model folders whose config.json cannot be read, or whose parts are not one model's: each command names the file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import jam
from jam.cli import main
from support import runs, tiny
from support.resealed import reseal

CONFIG = "config.json"
THERE: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "loop": lambda path: path.symlink_to(CONFIG),
    "dangling": lambda path: path.symlink_to("nothing"),
    "missing": lambda path: None,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, documents and shards."""
    place = tmp_path_factory.mktemp("whole")
    made = tiny.model(place / "made")
    (place / "model").mkdir()
    made.save(place / "model")
    (place / "one.jsonl").write_text('{"content": "a"}\n')
    runs.write_corpora(place / "data")
    return place


@pytest.mark.parametrize("command", ["verify", "eval", "fill", "generate", "prepare", "train"])
@pytest.mark.parametrize("kind", THERE)
def test_a_config_that_is_no_file_is_named(whole: Path, tmp_path: Path, capsys: Any, kind: str, command: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(whole / "model", folder)
    (folder / CONFIG).unlink()
    THERE[kind](folder / CONFIG)
    reseal(folder)
    documents, out = str(whole / "one.jsonl"), ["--out", str(tmp_path / "out")]
    arguments = {
        "verify": [str(folder)],
        "eval": [str(folder), documents],
        "fill": [str(folder), documents],
        "generate": [str(folder), "a"],
        "prepare": [documents, "--model", str(folder), *out],
        "train": ["--model", str(folder), *out, "--sources", str(whole / "data" / "train"), "--steps", "1"],
    }[command]
    status = main([command, *arguments, "--device", "cpu"])
    if (command, kind) == ("prepare", "missing"):  # which needs the tokenizers alone
        assert status == 0
        return
    told = capsys.readouterr().err.strip()
    assert status == 1 and "\n" not in told and CONFIG in told and str(folder) in told


def test_an_image_tokenizer_of_another_model_is_named(whole: Path, tmp_path: Path) -> None:
    """Its pictures have another grid, or it has more codes."""
    for key, value, words in (
        ("sample_size", 16, r"has a grid of \(8, 8\), the grammar 4 tokens"),
        ("num_vq_embeddings", 13, "has 13 codes, the vocabulary 12 image ids"),
    ):
        folder = tmp_path / key
        shutil.copytree(whole / "model", folder)
        path = folder / "image_tokenizer" / CONFIG
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
        if key == "num_vq_embeddings":
            weights = path.parent / "diffusion_pytorch_model.safetensors"
            tensors = load_file(weights)
            tensors["quantize.embedding.weight"] = torch.zeros(13, 4)
            save_file(tensors, weights, metadata={"format": "pt"})
        reseal(folder)
        belongs = f"{folder}/image_tokenizer does not belong to {folder}/manifest.json: the image tokenizer"
        with pytest.raises(ValueError, match=f"{belongs} {words}; fuse the parents again"):
            jam.load(folder, "cpu")


def test_an_image_tokenizer_that_is_a_dangling_link_is_named(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(whole / "model", folder)
    shutil.rmtree(folder / "image_tokenizer")
    (folder / "image_tokenizer").symlink_to("nothing")
    reseal(folder)
    with pytest.raises(ValueError, match=r"model/image_tokenizer: no image tokenizer here"):
        jam.load(folder, "cpu")
