"""The demo from end to end, with a few steps: every part of it runs, and its files say what they should."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from jam.api.loading import load
from jam.checkpoints import Manifest
from jam.codec import load_image_tokenizer
from jam.demo import image_tokenizer, parents, report
from jam.demo.parents import PIXEL_STD, start_from_pixels
from jam.demo.report import FUSIONS, ranking
from jam.demo.setup import begin_folder
from jam.demo.story import SHORT, story
from jam.tutorials import PARENTS
from jam.tutorials.scenes import random_scene

KEYS = {
    "prompts",
    "well_formed",
    "pictures_right",
    "first_pictures_right",
    "answers_right",
    "max_logit_difference",
    "seconds",
    "perplexity",
}


def test_the_parents_are_small_and_of_one_modality_each() -> None:
    files = [path for path in PARENTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12 * 2**20
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pkl", ".ckpt")]
    text, image = Manifest.load(PARENTS / "text"), Manifest.load(PARENTS / "image")
    assert text.vocabulary is not None and text.vocabulary["image_size"] == 0
    assert image.vocabulary is not None and image.vocabulary["image_size"] > 0


def test_rows_of_image_codes_lie_as_their_pixels_do() -> None:
    tokenizer = load_image_tokenizer(PARENTS / "image" / "image_tokenizer")
    table = torch.zeros(tokenizer.info.codebook_size, 192)
    start_from_pixels(table, tokenizer, seed=0)
    codes = tokenizer.encode([random_scene(random.Random(seed)).draw() for seed in range(20)]).unique()
    pictures = tokenizer.decode(codes[:, None, None].expand(-1, 8, 8))
    pixels = torch.tensor(np.stack([np.asarray(picture)[:8, :8].flatten() for picture in pictures])).float()
    between_rows, between_pixels = torch.pdist(table[codes]), torch.pdist(pixels)
    torch.testing.assert_close(between_rows / between_rows.mean(), between_pixels / between_pixels.mean())
    assert table.std() == pytest.approx(PIXEL_STD, rel=0.01)


@pytest.mark.slow
def test_the_parents_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From nothing to two folders, with a few steps of each training; a second run finds all stages done."""
    monkeypatch.setattr(parents, "TEXT_DOCUMENTS", 300)
    monkeypatch.setattr(parents, "CAPTIONS", 300)
    monkeypatch.setattr(image_tokenizer, "PICTURES", 300)
    for _ in range(2):
        parents.make_parents(tmp_path, 30, 3, 3, Console(quiet=True))
    assert {path.name for path in tmp_path.iterdir()} == {"text", "image"}
    for name in ("text", "image"):
        assert load(tmp_path / name, device="cpu").manifest.stage == "parent"


@pytest.mark.slow
def test_the_story_from_end_to_end(tmp_path: Path) -> None:
    lessons = replace(SHORT, tutorials=40, captions=40, texts=40, changes={"steps": 2, "warmup_steps": 1})
    returned = story(tmp_path / "demo", 3, lessons, Console(quiet=True))
    report = json.loads((tmp_path / "demo" / "report.json").read_text())
    assert report == json.loads(json.dumps(returned))
    assert set(report) >= KEYS
    assert report["prompts"] == 3
    assert report["max_logit_difference"] == 0.0
    fused, parents = report["perplexity"]["fused"], report["perplexity"]["parents"]
    # Text also has the control rows now, which take a little of the probability; pictures have nothing new.
    assert parents["text_ppl"] < fused["text_ppl"] < 1.02 * parents["text_ppl"]
    assert fused["image_ppl"] == pytest.approx(parents["image_ppl"], rel=1e-5)
    page = (tmp_path / "demo" / "index.html").read_text()
    assert page.count("<article>") == 3
    model = load(tmp_path / "demo" / "model", device="cpu")
    assert model.manifest.stage == "instructed"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_the_report_has_every_fusion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "CAPTIONS", 2)
    monkeypatch.setattr(report, "DOCUMENTS", 40)
    rows = report.report(tmp_path / "report", Console(quiet=True), steps=2, warmup_steps=1)
    assert rows == json.loads((tmp_path / "report" / "report.json").read_text())
    assert [row["model"] for row in rows] == ["text parent", "image parent", *(fusion.name for fusion in FUSIONS)]
    assert rows[0]["image_ppl"] is None and rows[1]["text_ppl"] is None
    assert all(row["text_ppl"] > 1 and row["image_ppl"] > 1 for row in rows[2:])


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"thesis exists; choose another --out"):
        begin_folder(tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"
    begin_folder(tmp_path / "demo")
    (tmp_path / "demo" / "old").touch()
    begin_folder(tmp_path / "demo")
    assert not (tmp_path / "demo" / "old").exists()


def test_fusions_are_ranked_among_themselves() -> None:
    rows = [{"model": fusion.name, "ppl": ppl} for fusion, ppl in zip(FUSIONS, [5, 4, None, 3, 2, 1, 6], strict=True)]
    rows.append({"model": "text parent", "ppl": 0})
    ranks = ranking(rows, "ppl")
    assert (
        ranks["cross 2"] == 1 and ranks["cross 4"] == 6 and "text parent" not in ranks and "width average" not in ranks
    )
