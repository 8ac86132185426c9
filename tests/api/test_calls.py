"""From documents to a trained model by calls of `jam` alone."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest

import jam
from jam.training.checkpoint import checkpoints
from support import pictures
from support.runs import assert_same

ARCHIVE = Path(__file__).parents[1] / "assets" / "made-before-the-house.tar.xz"
LESSONS = [
    jam.Document(content=[jam.Text("abc de fg"), jam.Image(codes=[1, 2, 3, code]), jam.Text("gfe")])
    for code in range(8)
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two parents and documents."""
    monkeypatch.chdir(tmp_path)
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    jam.documents.write_documents(tmp_path / "lessons.jsonl", iter(LESSONS))
    return tmp_path


def recipe(out: str, **changes: Any) -> jam.TrainConfig:
    values: dict[str, Any] = {"model": "made", "out": out, "sources": [jam.DataSource("made-shards")], "steps": 3}
    values |= {"batch_tokens": 96, "micro_batch_size": 1, "warmup_steps": 1, "device": "cpu", "precision": "fp32"}
    return jam.TrainConfig(**(values | changes))


def test_from_parents_to_a_trained_model(home: Path) -> None:
    lines: list[str] = []
    config = jam.FuseConfig("text", "image", "made", image_tokenizer="fused/image_tokenizer", sentinels=3)
    plan = jam.fuse(config, say=lines.append)
    assert plan.method == "cross" and lines[-1].startswith(f"{home}/made: cross, stage fused")
    assert jam.verify("made", LESSONS, device="cpu", answer_ids=0).verdict == "exact"
    counts = jam.prepare(["lessons.jsonl"], "made", "made-shards", device="cpu")
    assert (counts["documents"], counts["images"], counts["rejects"]) == (8, 8, 0)
    reports: list[Any] = []
    trained = jam.train(recipe("align"), reports.append)
    assert [report.step for report in reports] == [1, 2, 3] and trained == Path("align/model")
    before, after = (jam.evaluate(folder, LESSONS) for folder in ("made", trained))
    assert before["all_tokens"] == after["all_tokens"] and after["image_tokens"] == 8 * 4
    assert after["all_ppl"] != before["all_ppl"]
    assert jam.evaluate(jam.load(trained, "cpu"), ["lessons.jsonl"]) == after


def test_an_error_in_ones_own_code_saves_the_run(home: Path) -> None:
    def fail(report: Any) -> None:
        if report.step == 2:
            raise ZeroDivisionError

    changes = {"model": "fused", "sources": [jam.DataSource("shards")]}
    with pytest.raises(ZeroDivisionError):
        jam.train(recipe("stopped", **changes), fail)
    assert [path.name for path in checkpoints(Path("stopped"))] == ["step-000002"]
    jam.train(recipe("stopped", resume=True, **changes))
    jam.train(recipe("whole", **changes))
    first, second = (jam.load(f"{name}/model", "cpu").joint.state_dict() for name in ("stopped", "whole"))
    assert_same(first, second)


def test_an_image_tokenizer(tmp_path: Path) -> None:
    steps: list[Any] = []
    config = pictures.recipe(pictures.folder(tmp_path / "pictures"), tmp_path / "run")
    assert jam.train_tokenizer(config, steps.append) == tmp_path / "run" / "image_tokenizer"
    assert len(steps) == config.steps


@pytest.mark.parametrize(("name", "value"), [("tolerance", -1e-3), ("answer_ids", -1)])
def test_a_proof_that_makes_no_sense(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}; it must be 0 or more"):
        jam.verify("fused", **{name: value})
