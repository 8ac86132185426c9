"""A run that is ended within a validation validates first when it goes on: its records are those of one run."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jam.tokenizer_training import TokenizerTrainer
from jam.training import validation as validation_module
from jam.training.checkpoint import checkpoints, read_state
from jam.training.records import Records
from support import faults, pictures
from support.runs import trainer, write_corpora

RULES = {"validate_every": 2, "checkpoint_every": 3, "keep_checkpoints": 1}
Whole = tuple[Path, dict[str, Any]]
ENDS = (KeyboardInterrupt, SystemExit)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpora(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module", params=[False, pytest.param(True, marks=pytest.mark.slow)], ids=["last", "best"])
def whole(request: pytest.FixtureRequest, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """An undisturbed run, and its rules."""
    rules = RULES | {"keep_best": request.param}
    folder = tmp_path_factory.mktemp("whole") / "run"
    list(trainer(shards, folder, **rules).train())
    return folder, rules


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures.folder(tmp_path_factory.mktemp("pictures") / "all")


@pytest.fixture(autouse=True)
def interrupts() -> Iterator[None]:
    """Ctrl-C is Ctrl-C, whatever a shell's background jobs do with it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def records(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def kept(run: Path) -> list[tuple[str, float | None]]:
    return [(path.name, read_state(path)["validation"]) for path in checkpoints(run)]


def end(by: str) -> None:
    os.kill(os.getpid(), signal.SIGTERM if by == "SIGTERM" else signal.SIGINT)


def ended_in_validation(made: Any, monkeypatch: pytest.MonkeyPatch, step: int, by: str, batch: int = 1) -> None:
    """Train until the validation at a step, which is ended in a batch."""
    forward, seen = validation_module.batch_hidden, []

    def ending(*arguments: Any) -> Any:
        seen.extend([1] * (made.step == step))
        if len(seen) == batch:
            end(by)
        return forward(*arguments)

    with monkeypatch.context() as patch, pytest.raises(ENDS):
        patch.setattr(validation_module, "batch_hidden", ending)
        list(made.train())
    assert len(seen) == batch


@pytest.mark.parametrize(
    ("step", "by"),
    [
        (4, "SIGTERM"),
        pytest.param(4, "Ctrl-C", marks=pytest.mark.slow),
        pytest.param(6, "SIGTERM", marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_validation_comes_again(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Whole, step: int, by: str
) -> None:
    """In the middle of a run and at its end."""
    undisturbed, rules = whole
    ended_in_validation(trainer(shards, tmp_path / "run", **rules), monkeypatch, step, by)
    again = trainer(shards, tmp_path / "run", resume=True, **rules)
    assert [report.step for report in again.train()] == list(range(step + 1, 7))
    assert records(tmp_path / "run") == records(undisturbed)
    assert kept(tmp_path / "run") == kept(undisturbed)


def test_a_validation_may_be_interrupted_twice(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Whole
) -> None:
    undisturbed, rules = whole
    ended_in_validation(trainer(shards, tmp_path / "run", **rules), monkeypatch, 2, "SIGTERM")
    ended_in_validation(trainer(shards, tmp_path / "run", resume=True, **rules), monkeypatch, 2, "Ctrl-C", batch=2)
    list(trainer(shards, tmp_path / "run", resume=True, **rules).train())
    assert records(tmp_path / "run") == records(undisturbed)


def test_a_validation_that_is_recorded_is_recorded_once(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Whole
) -> None:
    """The run ends behind its last validation, before its model is written."""
    undisturbed, rules = whole
    made = trainer(shards, tmp_path / "run", **rules)
    monkeypatch.setattr(made, "save_model", lambda *_: end("Ctrl-C"))
    with pytest.raises(KeyboardInterrupt):
        list(made.train())
    again = trainer(shards, tmp_path / "run", resume=True, **rules)
    assert list(again.train()) == [] and again.validation_report
    assert records(tmp_path / "run") == records(undisturbed)


def interrupting(monkeypatch: pytest.MonkeyPatch, step: int, validates: bool) -> None:
    """Ctrl-C comes at the moment when something is written down."""

    def interrupted(write: Any, *given: Any) -> None:
        end("Ctrl-C")
        write(*given)

    def is_due(records: Records, values: dict[str, Any]) -> bool:
        return values["step"] == step and ("loss" in values) != validates

    faults.at_call(monkeypatch, Records, "write", interrupted, when=is_due)


@pytest.mark.parametrize(("step", "validates"), [pytest.param(3, False, marks=pytest.mark.slow), (4, True)])
def test_an_interrupt_costs_no_record(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Whole, step: int, validates: bool
) -> None:
    undisturbed, rules = whole
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupting(patch, step, validates)
        list(trainer(shards, tmp_path / "run", **rules).train())
    list(trainer(shards, tmp_path / "run", resume=True, **rules).train())
    assert records(tmp_path / "run") == records(undisturbed)


# --- the image tokenizer's --------------------------------------------------------------------------------------------


@pytest.fixture
def tokenizer(photographs: Path, tmp_path: Path) -> Callable[..., TokenizerTrainer]:
    rules = {"validate_every": 2, "checkpoint_every": 2, "keep_checkpoints": 0}
    return lambda name, **changes: TokenizerTrainer(pictures.recipe(photographs, tmp_path / name, **(rules | changes)))


@pytest.mark.parametrize("step", [4, pytest.param(6, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)])
def test_an_interrupted_measurement_comes_again(
    tokenizer: Callable[..., TokenizerTrainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    list(tokenizer("whole").train())
    made = tokenizer("run")
    measure, found = made.measure, []

    def interrupted() -> Any:
        if made.step == step:
            found.extend(path.name for path in checkpoints(made.run))
            raise KeyboardInterrupt
        return measure()

    monkeypatch.setattr(made, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(made.train())
    assert (f"step-{step:06d}" in found) == (step == 8)  # a kill here would cost the last one no step
    list(tokenizer("run", resume=True).train())
    assert records(tmp_path / "run") == records(tmp_path / "whole")
    grids = [sorted(path.name for path in (tmp_path / name / "reconstructions").iterdir()) for name in ("run", "whole")]
    assert grids[0] == grids[1]


@pytest.mark.parametrize(
    ("step", "validates"),
    [pytest.param(3, False, marks=pytest.mark.slow), (4, True), pytest.param(8, True, marks=pytest.mark.slow)],
)
def test_an_interrupt_costs_no_record_of_a_tokenizer(
    tokenizer: Callable[..., TokenizerTrainer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    validates: bool,
) -> None:
    list(tokenizer("whole").train())
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupting(patch, step, validates)
        list(tokenizer("run").train())
    list(tokenizer("run", resume=True).train())
    assert records(tmp_path / "run") == records(tmp_path / "whole")
