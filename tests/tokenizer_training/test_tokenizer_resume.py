"""An image tokenizer's run goes on with the pictures and the counts that it had."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from jam.documents import Document, write_documents
from jam.documents import Image as Part
from jam.tokenizer_training import PictureSource, TokenizerTrainer
from jam.tokenizer_training.pictures import digest_of, find_pictures
from support import faults, pictures


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [pictures.folder(tmp_path / name, 8, seed) for seed, name in enumerate("ab")]


def make(folders: list[Path], out: Path, second: float = 1.0, **changes: Any) -> TokenizerTrainer:
    sources = [PictureSource(str(folder), weight) for folder, weight in zip(folders, (1.0, second), strict=True)]
    return TokenizerTrainer(replace(pictures.recipe(folders[0], out, **changes), sources=sources))


def begin(trainer: TokenizerTrainer) -> None:
    steps = trainer.train()
    next(steps)
    steps.close()


def test_other_weights_of_sources_are_another_recipe(tmp_path: Path, folders: list[Path]) -> None:
    first, second = (make(folders, tmp_path / "run", weight) for weight in (1.0, 50.0))
    assert not torch.equal(first.pictures.batch(3, 16), second.pictures.batch(3, 16))
    begin(first)
    message = (
        r"another recipe: weights of pictures was \[1.0\] and is \[1.0, 50.0\]; digest of names, .* was \w{16} and"
    )
    with pytest.raises(ValueError, match=message):
        next(make(folders, tmp_path / "run", 50.0, resume=True).train())
    swapped = make(folders[::-1], tmp_path / "two", 50.0)
    begin(make(folders, tmp_path / "two", 50.0))
    with pytest.raises(ValueError, match=r"another recipe: digest of names, sizes and weights of pictures was"):
        swapped.load_checkpoint(next((tmp_path / "two" / "checkpoints").iterdir()))
    assert next(make(folders, tmp_path / "run", resume=True).train()).step == 2


def test_another_file_of_the_same_name_is_another_picture(tmp_path: Path, folders: list[Path]) -> None:
    begin(make(folders, tmp_path / "run"))
    moved = [Path(shutil.copytree(folder, tmp_path / "moved" / folder.name)) for folder in folders]
    begin(make(moved, tmp_path / "run", resume=True))  # paths may change
    learnt = make(moved, tmp_path / "other").pictures.pictures
    path = Path(str(learnt[0].image.path))
    noise = np.random.default_rng(0).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    with pytest.raises(ValueError, match=r"another recipe: digest of names, sizes and weights of pictures was"):
        next(make(moved, tmp_path / "run", resume=True).train())


def test_pictures_without_a_file_have_no_size(tmp_path: Path) -> None:
    """Those inside a document, and those that are gone."""
    drawn = [Document(content=[Part(pixels=pictures.smooth_picture(np.random.default_rng(seed)))]) for seed in (0, 1)]
    write_documents(tmp_path / "documents.jsonl", drawn)
    found = find_pictures([PictureSource(str(tmp_path / "documents.jsonl"))])
    assert len(found) == 2
    whole = digest_of(found)
    assert whole == digest_of(found) != digest_of(found[::-1])
    for picture in found:
        Path(str(picture.image.path)).unlink(missing_ok=True)
    assert len(digest_of(found)) == 16


def test_an_interrupt_inside_a_step_keeps_the_codes_used_by_whole_steps(
    tmp_path: Path, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which codes are revived follows from them."""
    settings: dict[str, Any] = {"steps": 8, "codebook_from": 1, "revive_every": 4, "codebook_size": 64}
    whole = make(folders, tmp_path / "whole", **settings)
    expected = list(whole.train())
    stopped = make(folders, tmp_path / "run", **settings)
    interrupted = faults.raising(KeyboardInterrupt(), done=True)
    faults.at_call(monkeypatch, stopped, "_forward_backward", interrupted, when=lambda *_: stopped.step == 2)
    kept = []
    with pytest.raises(KeyboardInterrupt):
        for _ in stopped.train():
            kept.append(stopped.used_K.clone())
    assert torch.equal(stopped.used_K, kept[-1])
    again = make(folders, tmp_path / "run", resume=True, **settings)
    assert [(one.loss, one.codes_used, one.revived) for one in again.train()] == [
        (one.loss, one.codes_used, one.revived) for one in expected[2:]
    ]
