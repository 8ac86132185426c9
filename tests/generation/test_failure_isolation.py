"""What goes wrong with one document, or with a caller, leaves the others and the engine as they were."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from jam.api.model import Model
from jam.generation import Engine, Finished, GenerationSettings, Request, Session
from jam.generation import engine as engine_module
from support import faults
from support.writing import writer

QUESTION = "How do I draw it?"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return writer(tmp_path_factory.mktemp("writer") / "cross")


@pytest.fixture
def broken(model: Model, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes logits of the n-th forward from now on not finite, in the first row."""
    return lambda after, value=torch.nan: faults.at_call(
        monkeypatch, model.joint, "logits", faults.not_finite(value), after
    )


def requests(model: Model, count: int, **settings: object) -> list[Request]:
    chosen = GenerationSettings(max_new_tokens=24, min_images=1, **settings)
    return [Request(model.codec.encode_prompt(QUESTION[: 3 + 2 * row]), chosen.for_row(row)) for row in range(count)]


# --- logits that are not finite ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_row_without_finite_logits_fails_alone(model: Model, broken: Callable, value: float) -> None:
    asked = requests(model, 4)
    alone = [Engine(model.joint, model.codec, slots=1).run([request])[0].new_ids for request in asked]
    engine = Engine(model.joint, model.codec, slots=3)  # the fourth gets the slot of the one that fails
    rows = [engine.submit(request) for request in asked]
    broken(4, value)
    finished = [event for event in engine.events() if isinstance(event, Finished)]
    assert engine.is_idle and engine.runner.lengths == [0] * 3 and sorted(engine.scheduler.free) == [0, 1, 2]
    assert [row.finish_reason == "failed" for row in rows] == [True, False, False, False]
    assert finished[0].id == rows[0].id and finished[0].reason == "failed"
    assert [row.result().new_ids for row in rows[1:]] == alone[1:]
    assert rows[0].new_ids == alone[0][: len(rows[0].new_ids)]
    with pytest.raises(ValueError, match=r"not finite .nan. behind a prompt of .* --dtype float32"):
        rows[0].result().checked()


def test_run_ends_the_others_and_raises(model: Model, broken: Callable) -> None:
    engine, seen = Engine(model.joint, model.codec, slots=3), []
    broken(2)
    with pytest.raises(ValueError, match="not finite"):
        engine.run(requests(model, 3), on_step=lambda rows: seen.append([row.finish_reason for row in rows]))
    assert seen[-1][0] == "failed" and None not in seen[-1] and engine.is_idle


def test_a_slot_that_held_nan_is_clean(model: Model) -> None:
    """Keys and values that are not finite lie behind the end of the next request in the slot."""
    short, _, _, long = requests(model, 4)
    expected = Engine(model.joint, model.codec, slots=2).run([short, long])
    engine = Engine(model.joint, model.codec, slots=2)
    row = engine.submit(long)
    engine.step()
    with torch.inference_mode():
        for layer in engine.runner.cache.layers:
            layer.values[row.slot.index] = torch.nan
    engine.step()
    assert row.finish_reason == "failed"
    assert [one.new_ids for one in engine.run([short, long])] == [one.new_ids for one in expected]


def test_guidance_that_is_not_finite_fails_the_guided_row(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = engine_module.guide
    monkeypatch.setattr(engine_module, "guide", lambda *given: plain(*given) * torch.inf)
    engine = Engine(model.joint, model.codec, slots=4)
    guided, other = requests(model, 1, guidance_scale=3.0)[0], requests(model, 2)[1]
    rows = [engine.submit(guided), engine.submit(other)]
    list(engine.events())
    assert [row.finish_reason == "failed" for row in rows] == [True, False] and engine.is_idle
    assert rows[0].result().images == 0 and not any(map(model.codec.vocabulary.is_image, rows[0].result().new_ids))


def test_a_failed_answer_is_none_of_the_conversation(model: Model, broken: Callable) -> None:
    chat = model.chat(max_new_tokens=12, temperature=0.0)
    broken(3)
    with pytest.raises(ValueError, match="not finite"):
        chat.send(QUESTION)
    assert not chat.document.messages
    fresh = model.generate(QUESTION, max_new_tokens=12, temperature=0.0)
    assert chat.send(QUESTION).content == fresh.answer


@pytest.mark.parametrize("ids", [[10**6], [-1], ["a"], [1.5]])
def test_an_unconditional_prompt_of_other_ids_is_refused(model: Model, ids: list) -> None:
    engine, request = Engine(model.joint, model.codec), requests(model, 1)[0]
    with pytest.raises(ValueError, match=r"the unconditional prompt holds .*; the ids of this model are 0 to"):
        engine.submit(Request(request.prompt, request.settings, unconditional=ids))
    assert engine.is_idle


# --- callers ----------------------------------------------------------------------------------------------------------


def test_a_session_that_answers_keeps_its_memory(model: Model) -> None:
    chat = model.chat(max_new_tokens=30, temperature=0.0, min_images=1)
    fresh = model.generate(QUESTION, max_new_tokens=30, temperature=0.0, min_images=1)
    stream = chat.stream(QUESTION)
    next(stream)
    for end in (chat.close, lambda: chat.loop.end(chat.session)):
        with pytest.raises(ValueError, match="this session is answering; cancel"):
            end()
    assert list(stream)[-1].document.answer == fresh.answer
    chat.close()
    assert not any(chat.loop.engine.runner.lengths) and len(chat.loop.engine.scheduler.free) == 2


def test_a_run_that_is_refused_leaves_nothing_behind(model: Model) -> None:
    engine = Engine(model.joint, model.codec, slots=1)
    plain, guided = requests(model, 1)[0], requests(model, 1, guidance_scale=2.0)[0]
    with pytest.raises(ValueError, match="needs 2 slots"):
        engine.run([plain, guided])
    assert engine.is_idle and engine.scheduler.free == [0]


def test_a_run_does_not_end_the_answer_of_a_busy_session(model: Model) -> None:
    engine, session = Engine(model.joint, model.codec, slots=2), Session()
    first = requests(model, 1)[0]
    row = engine.submit(Request(first.prompt, first.settings, session=session))
    engine.step()
    with pytest.raises(ValueError, match="answering already"):
        engine.run([Request(first.prompt, first.settings, session=session)])
    assert session.busy and row.finish_reason is None
    list(engine.events())
    assert row.finish_reason != "cancelled" and not session.busy


def test_a_callback_that_raises_ends_its_run_and_nothing_else(model: Model) -> None:
    engine = Engine(model.joint, model.codec, slots=3)
    first, second, third = requests(model, 3)
    alone = Engine(model.joint, model.codec).run([first])[0].new_ids
    other = engine.submit(first)
    with pytest.raises(ZeroDivisionError):
        engine.run([second, third], on_step=lambda rows: len(rows[0].new_ids) < 4 or 1 / 0)
    assert engine.scheduler.running == [other] and len(engine.scheduler.free) == 2
    events = list(engine.events())
    assert {event.id for event in events} == {other.id} and other.result().new_ids == alone


def test_a_run_keeps_the_events_of_others(model: Model) -> None:
    first, second = requests(model, 2)
    engine = Engine(model.joint, model.codec, slots=2)
    engine.submit(first)
    expected = [(type(event), getattr(event, "text", "")) for event in engine.events()]
    engine.submit(first)
    engine.run([second])
    assert [(type(event), getattr(event, "text", "")) for event in engine.events()] == expected
