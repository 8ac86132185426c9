"""Thousands of prompts: what is done besides the network grows with their number, and Ctrl-C ends it at once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

from jam.api.model import Model
from jam.generation import Engine, GenerationSettings, Request
from jam.generation.prefixes import share
from jam.generation.slots import Slot
from support.writing import writer

FEW, MANY = 30, 240


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return writer(tmp_path_factory.mktemp("writer") / "cross")


def operations(work: Callable[[], Any]) -> int:
    """Instructions of Python that some work takes, those of libraries in C apart."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def grows_linearly(work: Callable[[int], Callable[[], Any]]) -> bool:
    """Whether work on eight times as many takes less than 16 times as much; quadratic work takes 64 times."""
    few, many = (operations(work(count)) for count in (FEW, MANY))
    return many < 2 * (MANY // FEW) * few


def requests(model: Model, count: int) -> list[Request]:
    """Short and different ones."""
    v, chosen = model.codec.vocabulary, GenerationSettings(max_new_tokens=4)
    ids = [token for token in range(v.text_size) if v.is_text(token) and token not in (*v.end_ids, *v.begin_ids)]
    texts = [[ids[row % 13], ids[row // 13 % 13], ids[row // 169], *ids[:5]] for row in range(count)]
    return [Request([*v.begin_ids, *text], chosen.for_row(row)) for row, text in enumerate(texts)]


class Stop(BaseException):
    """As KeyboardInterrupt: no error."""


def interrupt(*_: Any, **__: Any) -> None:
    raise Stop


def test_a_batch_is_planned(model: Model) -> None:
    assert grows_linearly(lambda count: lambda: Engine.sized_for(model.joint, requests(model, count), model.codec))


def test_prompts_that_begin_alike_are_found() -> None:
    runner: Any = SimpleNamespace(ids=[[] for _ in range(MANY)])  # that has read nothing

    def plan(count: int) -> Callable[[], Any]:
        slots = [Slot(slot, [slot % 7, slot % 11, slot, *range(9)]) for slot in range(count)]
        return lambda: share(slots, slots, runner)

    assert grows_linearly(plan)


@pytest.mark.parametrize("waiting", [True, False])
def test_a_run_that_is_interrupted_ends_at_once(model: Model, waiting: bool) -> None:
    """Between two steps, with documents that wait and with those that are written."""

    def run(count: int) -> Callable[[], Any]:
        engine = Engine(model.joint, model.codec, slots=1 if waiting else count, length=24)
        rows: list[Any] = []

        def cancel() -> None:
            engine.cancel(*rows)
            assert not engine.scheduler.waiting and not engine.scheduler.running

        rows += [engine.submit(request) for request in requests(model, count)]
        engine.step()
        return cancel

    assert grows_linearly(run)


def test_a_step_that_is_interrupted_ends_at_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the midst of all prompts being read; what was submitted is taken out."""

    def run(count: int) -> Callable[[], Any]:
        engine = Engine(model.joint, model.codec, slots=count, length=24)
        asked = requests(model, count)

        def interrupted() -> None:
            with monkeypatch.context() as patch, pytest.raises(Stop):
                patch.setattr(engine.runner, "prefill", interrupt)
                engine.run(asked)
            assert engine.is_idle and len(engine.scheduler.free) == count

        return interrupted

    assert grows_linearly(run)


def test_many_documents_are_written(model: Model) -> None:
    """The engine's own work of whole runs."""

    def run(count: int) -> Callable[[], Any]:
        engine, asked = Engine(model.joint, model.codec, slots=count, length=24), requests(model, count)
        return lambda: engine.run(asked)

    assert grows_linearly(run)


def test_an_interrupt_within_planning_gets_out(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing on its way takes it for an error of a request, or goes on with the next one."""
    planned: list[int] = []

    def check(*_: Any, **__: Any) -> None:
        planned.append(1)
        if len(planned) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("jam.generation.limits._check_settings", check)
    with pytest.raises(KeyboardInterrupt):
        model.run(requests(model, FEW))
    assert len(planned) == 3
