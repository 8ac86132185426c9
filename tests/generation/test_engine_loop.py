"""The loop of an engine: any thread asks, cancels and reads; what goes wrong for one is told to that one."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from jam.api.model import Model
from jam.generation import Chat, Engine, EngineLoop, Finished, GenerationSettings, Request, Session, TextPiece
from support import faults
from support.writing import writer

QUESTION = "How do I draw it?"
SETTINGS: dict[str, Any] = {"max_new_tokens": 24, "min_images": 1, "seed": 3}


@pytest.fixture(scope="module", params=["cross", "single"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return writer(tmp_path_factory.mktemp("writer") / request.param, request.param)


@pytest.fixture
def loop(model: Model) -> Iterator[EngineLoop]:
    with EngineLoop(Engine(model.joint, model.codec, slots=4)) as loop:
        yield loop


def requests(model: Model, count: int) -> list[Request]:
    chosen = GenerationSettings(**SETTINGS)
    return [Request(model.codec.encode_prompt(QUESTION[: 3 + 2 * row]), chosen.for_row(row)) for row in range(count)]


def alone(model: Model, asked: list[Request]) -> list[list[int]]:
    return [Engine(model.joint, model.codec, slots=2).run([request])[0].new_ids for request in asked]


def held(model: Model, monkeypatch: pytest.MonkeyPatch, after: int = 1) -> threading.Event:
    """The `after`-th forward from now on waits until the event is set."""
    go_on = threading.Event()

    def fault(plain: Any, *given: Any) -> Any:
        assert go_on.wait(60)
        return plain(*given)

    faults.at_call(monkeypatch, model.joint, "logits", fault, after)
    return go_on


def test_threads_share_one_loop(model: Model, loop: EngineLoop) -> None:
    """Runs, streams and conversations at a time, more than there are slots."""
    asked = requests(model, 6)
    expected, answer = alone(model, asked), model.generate(QUESTION, **SETTINGS).answer

    def streamed(request: Request) -> list[int]:
        *_, last = loop.submit(request)
        assert isinstance(last, Finished)
        return last.generation.new_ids

    def chatted() -> Any:
        return Chat(loop, model.codec, GenerationSettings(**SETTINGS)).send(QUESTION).content

    with ThreadPoolExecutor(9) as pool:
        runs = [pool.submit(lambda: [one.new_ids for one in loop.run(asked)]) for _ in range(3)]
        streams = [pool.submit(streamed, request) for request in asked]
        chats = [pool.submit(chatted) for _ in range(3)]
    assert all(run.result() == expected for run in runs)
    assert [stream.result() for stream in streams] == expected
    assert all(chat.result() == answer for chat in chats)
    assert loop.engine.is_idle


def test_events_of_one_are_none_of_another(model: Model, loop: EngineLoop) -> None:
    """Two conversations that one thread reads in turns."""
    chosen = GenerationSettings(**SETTINGS)
    expected = model.generate(QUESTION, **SETTINGS).answer
    streams = [Chat(loop, model.codec, chosen).stream(QUESTION) for _ in range(2)]
    ends: list[Finished] = []
    while len(ends) < 2:
        for stream in streams:
            ends += [event for event in [next(stream, None)] if isinstance(event, Finished)]
    assert [end.document.answer for end in ends if end.document] == [expected, expected]
    assert all(next(stream, None) is None for stream in streams)


def test_requests_of_one_call_begin_together(model: Model, loop: EngineLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a batch is the same each time, to the last bit."""
    shapes: list[int] = []
    plain = model.joint.logits
    monkeypatch.setattr(model.joint, "logits", lambda *given: shapes.append(len(given[0])) or plain(*given))
    loop.run(requests(model, 4))
    assert shapes[0] == 4


def test_another_thread_cancels(model: Model, loop: EngineLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = requests(model, 2)
    expected, go_on = alone(model, asked), held(model, monkeypatch, after=3)
    first, second = loop.submit_all(asked)
    for stream in (first, second):
        stream.cancel()
        assert not stream.is_finished  # what is asked for in the midst of a step waits for its end
    go_on.set()
    assert [stream.result().finish_reason for stream in (first, second)] == ["cancelled"] * 2
    assert loop.submit(asked[0]).result().new_ids == expected[0]
    for stream, whole in zip((first, second), expected, strict=True):
        assert whole[: len(stream.result().new_ids)] == stream.result().new_ids
    first.cancel()  # no effect on one that is finished
    assert list(first)[-1].generation == first.result() and not list(first)


def test_a_request_that_cannot_be_met_is_refused_where_it_is_asked(model: Model, loop: EngineLoop) -> None:
    good, session = requests(model, 1)[0], Session()
    guided = GenerationSettings(**SETTINGS, guidance_scale=2.0)
    with pytest.raises(ValueError, match="no room for an answer"):
        loop.submit_all([good, Request(model.codec.encode_prompt(40 * QUESTION))])
    with pytest.raises(ValueError, match="answering already"):
        loop.submit_all([Request(good.prompt, good.settings, session=session)] * 2)
    assert not session.busy and loop.engine.is_idle
    with (
        EngineLoop(Engine(model.joint, model.codec, slots=1)) as small,
        pytest.raises(ValueError, match="needs 2 slots"),
    ):
        small.submit(Request(good.prompt, guided))


@pytest.mark.parametrize("after", [1, 4])
def test_a_step_that_raises_ends_those_of_the_step(
    model: Model, loop: EngineLoop, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    asked = requests(model, 6)
    expected = alone(model, asked)
    faults.at_call(monkeypatch, model.joint, "logits", faults.raising(RuntimeError("out of memory")), after)
    streams = loop.submit_all(asked)
    results = [stream.result() for stream in streams]
    assert [one.finish_reason == "failed" for one in results] == [True] * 4 + [False] * 2
    assert [one.new_ids for one in results[4:]] == expected[4:]
    with pytest.raises(ValueError, match=r"raised RuntimeError: out of memory, .* ask again") as error:
        results[0].checked()
    assert str(error.value.__cause__) == "out of memory"
    assert [one.new_ids for one in loop.run(asked)] == expected


def test_a_callback_that_raises_ends_its_run(model: Model, loop: EngineLoop) -> None:
    other, *asked = requests(model, 3)
    stream = loop.submit(other)

    def stop(streams: Any) -> None:
        assert len(streams) == 2
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.run(asked, stop)
    assert stream.result().new_ids == alone(model, [other])[0]
    assert loop.run([]) == [] and not loop.engine.scheduler.running


def test_progress_is_told_to_the_end(model: Model, loop: EngineLoop) -> None:
    seen: list[tuple[int, int]] = []
    results = loop.run(
        requests(model, 3), lambda ss: seen.append((sum(s.tokens for s in ss), sum(s.images for s in ss)))
    )
    assert seen == sorted(seen) and seen[-1][1] == sum(one.images for one in results) >= 3
    assert seen[-1][0] >= sum(len(one.new_ids) for one in results)  # what a limit cut off was counted


def test_a_loop_that_is_closed_ends_what_is_written(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = EngineLoop(Engine(model.joint, model.codec, slots=1))
    go_on = held(model, monkeypatch, after=4)
    streams = loop.submit_all(requests(model, 2))
    closing = threading.Thread(target=loop.close)
    closing.start()
    go_on.set()
    assert [stream.result().finish_reason for stream in streams] == ["cancelled"] * 2
    closing.join(60)
    assert not closing.is_alive() and loop.engine.runner.lengths == [0]
    with pytest.raises(ValueError, match="this engine has been closed; make another one"):
        loop.run(requests(model, 1))


def test_text_that_cannot_be_read_holds_nobody(model: Model, loop: EngineLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancelled document whose text raises when it ends; its neighbour is written."""
    plain = [Request(one.prompt, replace(one.settings, min_images=0, max_images=0)) for one in requests(model, 8)]
    asked = [request for request, ids in zip(plain, alone(model, plain), strict=True) if len(ids) > 8][:2]
    expected, go_on = alone(model, asked), held(model, monkeypatch, after=5)
    first, second = loop.submit_all(asked)
    monkeypatch.setattr(first._row.reporter.run, "close", faults.full_disk)
    first.cancel()
    go_on.set()
    assert isinstance(first.result().error, OSError) and second.result().new_ids == expected[1]
    assert [type(event) for event in first][-1] is Finished


def test_a_thread_that_dies_leaves_nobody_waiting(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = EngineLoop(Engine(model.joint, model.codec, slots=1))
    monkeypatch.setattr(loop._thread, "_step", faults.full_disk)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    with pytest.raises(ValueError, match=r"raised OSError: .*No space left"):
        loop.run(requests(model, 2))
    with pytest.raises(ValueError, match="this engine has been closed"):
        loop.submit(requests(model, 1)[0])


def test_a_loop_that_nobody_holds_ends(model: Model) -> None:
    before = threading.active_count()
    stream = EngineLoop(Engine(model.joint, model.codec, slots=1)).submit(requests(model, 1)[0])
    assert "".join(event.text for event in stream if isinstance(event, TextPiece))  # held by what it writes
    assert threading.active_count() == before + 1
    del stream
    gc.collect()
    assert threading.active_count() == before


def test_a_generator_that_is_left_ends_its_thread(model: Model) -> None:
    before = threading.active_count()
    for _ in model.stream(QUESTION, **SETTINGS):
        break
    gc.collect()
    for thread in threading.enumerate():
        if thread.name == "jam engine":
            thread.join(60)
    assert threading.active_count() == before
