"""An engine is used from one thread at a time, which others are told; engines of one model work side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import Any

import pytest

from jam.api.model import Model
from jam.generation import Chat, Engine, Finished, GenerationSettings, Request, Session
from support.writing import writer

QUESTION = "How do I draw it?"
SETTINGS: dict[str, Any] = {"max_new_tokens": 24, "min_images": 1, "seed": 3}
REFUSED = "another thread is using this engine; use one engine from one thread at a time"


@pytest.fixture(scope="module", params=["cross", "single"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return writer(tmp_path_factory.mktemp("writer") / request.param, request.param)


def requests(model: Model, count: int) -> list[Request]:
    chosen = GenerationSettings(**SETTINGS)
    return [Request(model.codec.encode_prompt(QUESTION[: 3 + 2 * row]), chosen.for_row(row)) for row in range(count)]


@contextmanager
def in_a_step(model: Model, work: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Future[Any]]:
    """Another thread does some work, and stands in the midst of a forward until the block ends."""
    plain, inside, go_on = model.joint.logits, Event(), Event()

    def logits(*given: Any) -> Any:
        inside.set()
        assert go_on.wait(60)
        return plain(*given)

    with monkeypatch.context() as patch, ThreadPoolExecutor(1) as pool:
        patch.setattr(model.joint, "logits", logits)
        working = pool.submit(work)
        try:
            assert inside.wait(60)
            yield working
        finally:
            go_on.set()


def test_a_second_thread_is_refused(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = requests(model, 3)
    expected = [one.new_ids for one in Engine(model.joint, model.codec, slots=4).run(asked)]
    engine = Engine(model.joint, model.codec, slots=4)
    with in_a_step(model, lambda: engine.run(asked), monkeypatch) as running:
        for call in (
            lambda: engine.submit(asked[0]),
            lambda: engine.run(asked),
            lambda: engine.end(Session()),
            engine.step,
            lambda: list(engine.events()),
        ):
            with pytest.raises(RuntimeError, match=REFUSED):
                call()
    assert [one.new_ids for one in running.result()] == expected and engine.is_idle
    assert [one.new_ids for one in engine.run(asked)] == expected  # and then it may


def test_a_second_conversation_is_refused(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(model.joint, model.codec, slots=4)
    first, second = (Chat(engine, model.codec, GenerationSettings(**SETTINGS)) for _ in range(2))
    expected = model.generate(QUESTION, **SETTINGS).answer
    with in_a_step(model, lambda: first.send(QUESTION), monkeypatch) as answering:
        for ask in (lambda: second.send(QUESTION), lambda: next(iter(second.stream(QUESTION)))):
            with pytest.raises(RuntimeError, match=REFUSED):
                ask()
    assert answering.result().content == expected and not second.document.messages
    assert second.send(QUESTION).content == expected


def test_a_stream_that_is_refused_in_its_midst_is_cancelled(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, chosen = Engine(model.joint, model.codec, slots=4), GenerationSettings(**SETTINGS)
    chat = Chat(engine, model.codec, chosen)
    stream = chat.stream(QUESTION)
    next(stream)
    with in_a_step(model, lambda: list(engine.events()), monkeypatch), pytest.raises(RuntimeError, match=REFUSED):
        list(stream)
    assert not chat.document.messages
    assert chat.send(QUESTION).content == model.generate(QUESTION, **SETTINGS).answer
    assert engine.is_idle and not engine.scheduler.running


def test_another_thread_may_cancel(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, asked = Engine(model.joint, model.codec, slots=4), requests(model, 2)
    expected = Engine(model.joint, model.codec, slots=4).run(asked)[1].new_ids
    rows = [engine.submit(one) for one in asked]
    with in_a_step(model, lambda: list(engine.events()), monkeypatch) as running:
        engine.cancel(rows[0])
        assert rows[0].finish_reason is None
    ends = {event.row: event.reason for event in running.result() if isinstance(event, Finished)}
    assert ends[rows[0]] == "cancelled" and rows[1].result().new_ids == expected


def test_two_conversations_of_one_engine_in_turns(model: Model) -> None:
    """Of one thread: what happens to one is not told to the other."""
    engine, chosen = Engine(model.joint, model.codec, slots=4), GenerationSettings(**SETTINGS)
    expected = model.generate(QUESTION, **SETTINGS).answer
    streams = [Chat(engine, model.codec, chosen).stream(QUESTION) for _ in range(2)]
    ends: list[Finished] = []
    while len(ends) < 2:
        for stream in streams:
            ends += [event for event in [next(stream, None)] if isinstance(event, Finished)]
    assert [one.document.answer for one in ends if one.document] == [expected, expected]
    assert all(next(stream, None) is None for stream in streams) and engine.is_idle


def test_an_engine_each_for_two_threads(model: Model) -> None:
    """Answers, streams and conversations of one model at a time."""
    asked = requests(model, 6)
    expected = [one.new_ids for one in model.run(asked)]
    answer = model.generate(QUESTION, **SETTINGS).answer

    def streamed() -> Any:
        *_, last = model.stream(QUESTION, **SETTINGS)
        assert isinstance(last, Finished) and last.document is not None
        return last.document.answer

    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(lambda: [one.new_ids for one in model.run(asked)]) for _ in range(4)]
        streams = [pool.submit(streamed) for _ in range(4)]
        chats = [pool.submit(lambda: model.chat(**SETTINGS).send(QUESTION).content) for _ in range(4)]
    assert all(run.result() == expected for run in runs)
    assert all(one.result() == answer for one in (*streams, *chats))
