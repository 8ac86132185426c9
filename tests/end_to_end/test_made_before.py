"""What an earlier version made still opens: a fused folder, its parents, shards, and a run that was interrupted.

The archive was made at commit 4729fb1: two parents of 2 layers, cross fusion, 12 documents, 2 of 4 steps, and
`expected.json` with what that version computed of them.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch

import jam
from jam.api.training import make_trainer
from jam.cli import main
from jam.generation import Request
from jam.training import DataSource, TrainConfig

ARCHIVE = Path(__file__).parents[1] / "assets" / "made-before-the-house.tar.xz"


@pytest.fixture
def expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """In a folder with the archive's content."""
    monkeypatch.chdir(tmp_path)
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return json.loads((tmp_path / "expected.json").read_text())


def test_it_is_verified_and_writes_the_same(expected: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "fused", "--device", "cpu", "--answer-ids", "4", "--json", "proof.json"]) == 0, (
        capsys.readouterr().out
    )
    proof = json.loads(Path("proof.json").read_text())
    assert (proof["verdict"], proof["max_logit_difference"]) == (expected["verdict"], 0.0)
    model = jam.load("fused", device="cpu", check=True)
    assert model.codec.vocabulary.hash == expected["vocabulary"]
    request = Request(model.codec.encode_prompt("abc"), model.settings.changed(temperature=0, max_new_tokens=20))
    assert model.run([request])[0].new_ids == expected["new_ids"]


def test_its_run_goes_on(expected: dict[str, Any]) -> None:
    config = TrainConfig(
        model="fused",
        out="run",
        sources=[DataSource("shards")],
        steps=4,
        batch_tokens=96,
        micro_batch_size=1,
        lr=1e-2,
        warmup_steps=1,
        device="cpu",
        precision="fp32",
        resume=True,
    )
    losses = [report.loss for report in make_trainer(jam.load("fused", device="cpu"), config).train()]
    assert losses == pytest.approx(expected["losses"][2:], rel=1e-5)
    assert torch.isfinite(jam.load("run/model", device="cpu").joint.readout_parameters()[0]).all()


def test_its_checkpoint_is_exported(expected: dict[str, Any]) -> None:
    assert jam.export("run", "exported") == (2, "aligned")
    assert jam.load("exported", device="cpu", check=True).manifest.stage == "aligned"
