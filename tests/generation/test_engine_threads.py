"""An engine is used from one thread at a time, which others are told; engines of one model work side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import Any

import pytest

from jam.api.model import Model
from jam.generation import Engine, Finished, GenerationSettings, Request, Session
from support.writing import writer

QUESTION = "How do I draw it?"
SETTINGS: dict[str, Any] = {"max_new_tokens": 24, "min_images": 1, "seed": 3}
REFUSED = "another thread is using this engine; use one engine from one thread at a time: put the requests through"


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
