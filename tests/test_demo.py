"""The demo from end to end, with a few steps: every part of it runs, and its files say what they should."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from jam.checkpoints import Manifest
from jam.demo.report import FUSIONS, ranking
from jam.demo.story import SHORT, story
from jam.model import load
from jam.tutorials import PARENTS

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


def test_the_parents_are_small_and_do_not_share_documents() -> None:
    files = [path for path in PARENTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12 * 2**20
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pkl", ".ckpt")]
    text, image = Manifest.load(PARENTS / "text"), Manifest.load(PARENTS / "image")
    assert text.vocabulary is not None and text.vocabulary["image_size"] == 0
    assert image.vocabulary is not None and image.vocabulary["image_size"] > 0


@pytest.mark.slow
def test_the_story_from_end_to_end(tmp_path: Path) -> None:
    lessons = replace(SHORT, tutorials=40, captions=40, texts=40, options=("--steps", "2"))
    returned = story(tmp_path / "demo", 3, lessons, Console(quiet=True))
    report = json.loads((tmp_path / "demo" / "report.json").read_text())
    assert report == json.loads(json.dumps(returned))
    assert set(report) >= KEYS
    assert report["prompts"] == 3
    assert report["max_logit_difference"] == 0.0
    fused, parents = report["perplexity"]["fused"], report["perplexity"]["parents"]
    # The fused model's softmax also has the control rows: it may only take a little from the parents'.
    assert parents["text_ppl"] <= fused["text_ppl"]
    assert fused["image_ppl"] == pytest.approx(parents["image_ppl"], rel=0.01)
    page = (tmp_path / "demo" / "index.html").read_text()
    assert page.count("<article>") == 3
    model = load(tmp_path / "demo" / "model", device="cpu")
    assert model.manifest.stage == "instructed"
    assert not list(tmp_path.glob(".*"))


def test_fusions_are_ranked_among_themselves() -> None:
    rows = [{"model": fusion.name, "ppl": ppl} for fusion, ppl in zip(FUSIONS, [5, 4, None, 3, 2, 1, 6], strict=True)]
    rows.append({"model": "text parent", "ppl": 0})
    ranks = ranking(rows, "ppl")
    assert (
        ranks["cross 2"] == 1 and ranks["cross 4"] == 6 and "text parent" not in ranks and "width average" not in ranks
    )
