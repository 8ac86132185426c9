"""A validation costs a run nothing: not by its documents, nor by an error in it, nor by a signal."""

from __future__ import annotations

import json
import os
import shutil
import signal

import pytest

from jam.data import prepare
from jam.documents import Document, Message, Text
from jam.training import RESULT
from jam.training import validation as validation_module
from jam.training.checkpoint import checkpoints, read_state
from support import faults, tiny
from support.runs import assert_same, trainer, weights, write_corpora


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_corpora(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory):
    """A run that nothing happens to, and its losses."""
    made = trainer(shards, tmp_path_factory.mktemp("whole") / "run")
    return made, [report.loss for report in made.train()]


@pytest.fixture(scope="module")
def unfit(tmp_path_factory):
    """Shards whose third document has a question as long as the context."""
    folder = tmp_path_factory.mktemp("unfit") / "held"
    short = Document([Text("First draw a red house.")])
    question = Document(
        messages=[Message("user", [Text("How do I draw it? " * 60)]), Message("assistant", [Text("a")])]
    )
    list(prepare([short, short, question], tiny.codec(), folder))
    return folder


def validated(run):
    """What the last checkpoint and the last record of a validation say."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = [line["validation_all_ppl"] for line in lines if "validation_all_ppl" in line]
    return read_state(checkpoints(run)[-1])["validation"], found[-1] if found else None


def test_a_document_that_cannot_be_validated_on_is_named_before_the_run(shards, tmp_path, unfit):
    made = trainer(shards, tmp_path / "run", validation=[str(unfit)])
    (named,) = made.left_out
    assert named.startswith("documents:3: a question of ") and "leaves no room for its answer" in named
    first = trainer(shards, tmp_path / "first", validation=[str(unfit)], validation_documents=2)
    assert first.left_out == [] and first.validate() == made.validate()
    assert first.validate()["text_tokens"] == sum(
        len(piece.ids) - 1 for piece in map(first.validation[0].__getitem__, (0, 1))
    )


def test_an_error_in_the_last_validation_costs_no_step(shards, tmp_path, monkeypatch, whole):
    whole, _ = whole
    assert validated(whole.run) == (whole.validation_report["all_ppl"],) * 2

    made = trainer(shards, tmp_path / "run")
    faults.at_call(monkeypatch, made, "validate", faults.raising(RuntimeError("out of memory")))
    with pytest.raises(RuntimeError, match="out of memory"):
        list(made.train())
    assert [path.name for path in checkpoints(made.run)] == ["step-000006"] and validated(made.run) == (None, None)
    shutil.copytree(made.run, tmp_path / "without")
    again = trainer(shards, tmp_path / "run", resume=True)
    assert list(again.train()) == [] and (again.run / RESULT).is_dir()
    assert_same(weights(again), weights(whole))
    assert validated(again.run) == validated(whole.run)
    without = trainer(shards, tmp_path / "without", resume=True, validation=[])
    assert list(without.train()) == [] and (without.run / RESULT).is_dir()


@pytest.mark.parametrize(("every", "step"), [(0, 6), (3, 3)])
def test_sigterm_in_a_validation_ends_it_at_the_next_batch(shards, tmp_path, monkeypatch, whole, every, step):
    """In the last validation, and in one between steps; the run goes on as if nothing had been."""
    whole, losses = whole
    made = trainer(shards, tmp_path / "run", validate_every=every)
    forward, batches = validation_module.batch_hidden, []

    def terminated(*arguments):
        batches.append(checkpoints(made.run))
        os.kill(os.getpid(), signal.SIGTERM)
        return forward(*arguments)

    monkeypatch.setattr(validation_module, "batch_hidden", terminated)
    with pytest.raises(SystemExit) as ended:
        list(made.train())
    monkeypatch.undo()
    assert ended.value.code == 128 + signal.SIGTERM and len(batches) == 1
    assert [path.name for path in checkpoints(made.run)] == [f"step-{step:06d}"]
    assert (batches[0] == checkpoints(made.run)) == (step == 6)
    assert made.model.training and not (made.run / RESULT).exists()
    again = trainer(shards, tmp_path / "run", resume=True)
    assert [report.loss for report in again.train()] == losses[step:]
    assert_same(weights(again), weights(whole))
    assert validated(again.run) == validated(whole.run)


def test_the_last_checkpoint_may_be_the_best(shards, tmp_path, monkeypatch):
    perplexities = iter([5.0, 4.0, 6.0, 7.0, 8.0, 3.0])
    made = trainer(shards, tmp_path / "run", validate_every=1, keep_checkpoints=1, keep_best=True)
    monkeypatch.setattr(made, "validate", lambda: {"all_ppl": next(perplexities)})
    seen = []
    for report in made.train():
        made.checkpoints.settle(wait=True)
        seen.append([path.name for path in checkpoints(made.run)])
        assert report.step == len(seen)
    assert seen[-1] == ["step-000002"]
    assert [(path.name, read_state(path)["validation"]) for path in checkpoints(made.run)] == [("step-000006", 3.0)]


def test_a_checkpoint_says_nothing_of_an_earlier_steps_validation(shards, tmp_path):
    made = trainer(shards, tmp_path / "run", validate_every=1)
    steps = made.train()
    next(steps), next(steps)
    assert made.validation_report == {}
    steps.close()  # the first step was validated, the second is not yet
    (last,) = checkpoints(made.run)
    assert last.name == "step-000002" and read_state(last)["validation"] is None
