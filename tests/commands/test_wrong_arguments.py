"""What is easily mistaken at the terminal: the wrong folder, parents exchanged, another method's options."""

from __future__ import annotations

import gzip
import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

import jam
from jam.api.documents import read_all
from jam.cli import main
from jam.console import progress, training
from jam.training import Trainer
from jam.training.checkpoint import checkpoints
from jam.tutorials import PARENTS
from support import tiny
from support.fusion_parents import llama_config, run, save_pair
from support.runs import config, trainer, write_corpora


@pytest.mark.parametrize("method", ["cross", "uniform", "width"])
def test_exchanged_parents(tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str) -> None:
    parents = ["--text", str(PARENTS / "image"), "--image", str(PARENTS / "text")]
    assert main(["fuse", *parents, "--method", method, "--out", str(tmp_path / "out")]) == 1
    assert "has no image codes" in (error := capsys.readouterr().err) and "--text and --image exchanged?" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "uniform", "every": 4}, "--every 4: only cross fusion has it; leave it out of --method uniform"),
        ({"method": "width", "readout": "paper"}, "--readout paper: only cross fusion has it"),
        ({"method": "width", "weight": 0.3}, "--weight 0.3: only uniform fusion has it"),
        ({"init": "average"}, "--init average: only width fusion has it; leave it out of --method cross"),
        ({"every": -1}, "--every is -1; it must be 0"),
        ({"shard_mb": 0}, "--shard-mb is 0; it must be above 0"),
    ],
)
def test_options_of_another_method(tmp_path: Path, changes: dict, message: str) -> None:
    save_pair(tmp_path, llama_config)
    with pytest.raises(ValueError, match=re.escape(message)):
        run(tmp_path, **changes)
    assert not (tmp_path / "out").exists()


def test_a_run_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither one that has ended, nor one that has not, nor a parent."""
    for inner, words in (("model", "it is a run; its model is"), ("checkpoints", "`jam export` makes a model of its")):
        folder = tmp_path / f"run-{inner}"
        (folder / inner).mkdir(parents=True)
        if inner == "model":
            (folder / inner / "manifest.json").write_text('{"stage": "aligned"}')
        assert main(["generate", str(folder), "a"]) == 1 and words in " ".join(capsys.readouterr().err.split())
    assert main(["generate", str(tmp_path / "none"), "a"]) == 1 and "no such folder" in capsys.readouterr().err
    assert main(["generate", str(tmp_path), "a"]) == 1 and "make one with `jam fuse`" in capsys.readouterr().err


def test_export_of_what_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def export(folder: str) -> str:
        assert main(["export", str(tmp_path / folder), "--out", str(tmp_path / "out")]) == 1
        return " ".join(capsys.readouterr().err.split())

    assert "there is no such folder" in export("none")
    problems = {
        "{}": "is no recipe of `jam train` (it lacks 'sources')",
        "{": "is not valid JSON",
        "[]": "holds a list",
    }
    problems |= {'{"held_out": 1, "sources": []}': "is no recipe of `jam train`"}
    problems |= {
        '{"model": "m", "out": null, "sources": []}': "is no recipe of `jam train` (out is null; it must be text)"
    }
    for text, problem in problems.items():
        (tmp_path / "recipe.json").write_text(text)
        assert f"recipe.json {problem}" in export(".")
    (tmp_path / "image_tokenizer").mkdir()
    assert "is a run of `jam train-tokenizer`; what it made is" in export(".")


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    shards = write_corpora(tmp_path / "data")
    base, out = tmp_path / "base", tmp_path / "run"
    base.mkdir()
    tiny.model(tmp_path / "made").save(base)
    model = jam.load(base)
    steps = Trainer(model.joint, config(shards, out, model=str(base)), model.save).train()
    assert [next(steps).step for _ in range(3)] == [1, 2, 3]
    steps.close()
    (checkpoint,) = checkpoints(out)
    (checkpoint / name).write_bytes((checkpoint / name).read_bytes()[:500])
    assert main(["export", str(out), "--out", str(tmp_path / "out")]) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert f"{checkpoint} is damaged" in error and "--resume goes on from the one before" in error
    with pytest.raises(ValueError, match="step-000003 is damaged"):
        list(trainer(shards, out, model=str(base), resume=True).train())


def test_an_interrupted_training_says_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = trainer(write_corpora(tmp_path / "data"), tmp_path / "run")
    console = Console(record=True, width=200, file=io.StringIO())
    monkeypatch.setattr(progress, "EVERY", 0)

    def step(plain=made.train_step):  # type: ignore[no-untyped-def]
        if made.step == 4:
            raise KeyboardInterrupt
        return plain()

    monkeypatch.setattr(made, "train_step", step)
    with pytest.raises(KeyboardInterrupt):
        training.run_training(made, "training", console)
    text = console.export_text()
    assert f"stopped after step 4, saved in {tmp_path}/run/checkpoints; the same command with --resume" in text
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["step-000004"]
    # In a log, lines stand for the bar.
    lines = [line for line in text.splitlines() if re.match(r"training \d/6 0:00:\d\d left \S+ loss \d", line)]
    assert len(lines) == 3


def test_documents_of_every_kind(tmp_path: Path) -> None:
    """What `jam eval` and `jam verify` read is what `jam prepare` reads; a mistake has file and line."""
    lines = "".join(json.dumps(record) + "\n" for record in ({"text": "one"}, {"content": "two"}, {"body": "three"}))
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write(lines)
    documents = read_all([tmp_path / "a.jsonl.gz"])
    assert [next(documents).texts, next(documents).texts] == [["one"], ["two"]]
    with pytest.raises(ValueError, match=r"a\.jsonl\.gz:3: no text; expected content or messages"):
        next(documents)
