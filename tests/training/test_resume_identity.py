"""A run goes on with the weights and the data that it began with, or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import jam
from jam.cli import main
from jam.data import Shards, ShardWriter
from jam.training import DataSource, Trainer
from jam.training.parts import frozen_digest
from support import tiny
from support.runs import config, trainer, write_corpora


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_corpora(tmp_path_factory.mktemp("data"))


def change_tower(model: torch.nn.Module) -> None:
    """One value of the text tower."""
    parameter = next(model.text_tower.model.parameters())  # type: ignore[union-attr, operator]
    with torch.no_grad():
        parameter.view(-1)[3] += 1e-3


@pytest.mark.parametrize("choice", ["cross", "lora"])
def test_frozen_weights_are_those_that_the_run_began_with(shards, tmp_path, choice):
    next(steps := trainer(shards, tmp_path / "run", train=choice).train())
    steps.close()
    made = tiny.model(tmp_path / "other")
    change_tower(made.joint)
    again = Trainer(made.joint, config(shards, tmp_path / "run", train=choice, resume=True), made.save)
    with pytest.raises(ValueError, match=r"another recipe: digest of frozen weights was \w{16} and is \w{16}"):
        next(again.train())
    assert next(trainer(shards, tmp_path / "run", train=choice, resume=True).train()).step == 2


def test_a_run_learns_the_same_turns_to_its_end(shards, tmp_path):
    next(steps := trainer(shards, tmp_path / "run").train())
    steps.close()
    with pytest.raises(ValueError, match="another recipe: learn_turns was last and is all"):
        next(trainer(shards, tmp_path / "run", resume=True, learn_turns="all").train())
    (state,) = (tmp_path / "run").rglob("run.json")
    values = json.loads(state.read_text())
    del values["settings"]["learn_turns"]  # as an earlier version wrote it
    state.write_text(json.dumps(values | {"checksum": None}))
    assert next(trainer(shards, tmp_path / "run", resume=True).train()).step == 2


def test_weights_that_checkpoints_hold_are_not_compared(shards, tmp_path):
    assert trainer(shards, tmp_path / "run").frozen is None
    model = torch.nn.Linear(3, 2, dtype=torch.bfloat16).requires_grad_(False)
    digest = frozen_digest(model)
    assert digest == frozen_digest(model)
    model.bias.data[1] = 7
    assert frozen_digest(model) not in (None, digest)


def test_data_of_the_same_size_are_other_data(shards, tmp_path):
    before = Shards(shards / "train", tiny.codec().vocabulary)
    (tmp_path / "other").mkdir()
    with ShardWriter(tmp_path / "other", before.vocabulary) as writer:
        for number in range(len(before)):
            encoded = before[number]
            if number == 7:
                encoded.ids[1] = 9 if encoded.ids[1] != 9 else 8
            writer.add(encoded)
    writer.finish()
    next(steps := trainer(shards, tmp_path / "run").train())
    steps.close()
    other = {"sources": [DataSource(str(tmp_path / "other"))], "resume": True}
    with pytest.raises(ValueError, match=r"another recipe: digests of data was \['\w+'\] and is \['\w+'\]\. Resume"):
        next(trainer(shards, tmp_path / "run", **other).train())


def test_the_digest_of_shards_is_of_ids_and_answers(shards, tmp_path):
    found = Shards(shards / "train", tiny.codec().vocabulary).digest
    assert found == json.loads((shards / "train" / "shards.json").read_text())["digest"]
    assert found != Shards(shards / "held", tiny.codec().vocabulary).digest


def test_an_export_from_another_model_is_refused(shards, tmp_path, capsys):
    base, run, moved = tmp_path / "base", tmp_path / "run", tmp_path / "moved"
    for folder in (base, moved):
        folder.mkdir()
        made = tiny.model(tmp_path / f"made-{folder.name}")
        if folder is moved:
            change_tower(made.joint)
        made.save(folder)
    model = jam.load(base)
    settings = config(shards, run, model=str(base), train="cross")
    next(steps := Trainer(model.joint, settings, model.save).train())
    steps.close()
    assert export(run, tmp_path / "first") == 0
    assert export(run, tmp_path / "second", "--model", str(moved)) == 1
    assert "name the one that the run began with (--model)" in capsys.readouterr().err


def export(run: Path, out: Path, *more: str) -> int:
    return main(["export", str(run), "--out", str(out), *more])
