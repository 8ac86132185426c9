"""Checkpoints of a run as models."""

from __future__ import annotations

import pytest
import torch

import jam
from jam.api.exporting import find_checkpoint
from jam.cli import main
from jam.training import Trainer
from jam.training.parts import merged, whole_tensors
from support import tiny
from support.runs import assert_same, config, write_corpora


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_corpora(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize(
    ("kind", "choice", "tied"),
    [
        pytest.param("cross", "all", False, marks=pytest.mark.slow),
        ("cross", "lora", True),
        ("single", "lora", False),
        ("single", "all", True),
    ],
)
def test_a_checkpoint_is_exported_as_a_model(shards, tmp_path, kind, choice, tied):
    """Of a run that has not ended: equal to the model that the run would have saved there."""
    base, run = tmp_path / "base", tmp_path / "run"
    base.mkdir()
    tiny.model(tmp_path / "made", kind, tied=tied).save(base)
    settings = config(shards, run, model=str(base), train=choice, checkpoint_every=2, lr=1e-2)
    model = jam.load(base)
    made = Trainer(model.joint, settings, model.save)
    for report in made.train():
        if report.step == 3:
            break
    for options, name in (([], "last"), (["--step", "2"], "second")):
        assert main(["export", str(run), "--out", str(tmp_path / name), *options]) == 0
    last, second = (jam.load(tmp_path / name) for name in ("last", "second"))
    assert last.manifest.stage == "aligned" and type(last.joint) is type(jam.load(base).joint)
    (tmp_path / "now").mkdir()
    model.save(tmp_path / "now", "aligned", merged(whole_tensors(made.model), settings))
    assert_same(last.joint.state_dict(), jam.load(tmp_path / "now").joint.state_dict())
    assert any(not torch.equal(value, second.joint.state_dict()[key]) for key, value in last.joint.state_dict().items())
    with pytest.raises(ValueError, match="has no checkpoint of step 7; there are 2, 3"):
        find_checkpoint(run, 7)
    assert main(["export", str(tmp_path), "--out", str(tmp_path / "x")]) == 1
