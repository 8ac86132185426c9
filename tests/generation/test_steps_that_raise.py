"""A step that raises: the error comes out, its rows end, and nobody waits for ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from jam.api.model import Model
from jam.documents import Document, Gap, Image, Part
from jam.generation import Engine, Finished, GenerationSettings, Request, TextPiece, reporter, request_to_fill
from support import faults
from support.writing import like, writer

QUESTION = "How do I draw it?"
GREEDY: dict[str, Any] = {"max_new_tokens": 24, "temperature": 0.0}
PICTURE = Image(codes=[1, 2, 3, 4])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return writer(tmp_path_factory.mktemp("writer") / "cross")


@pytest.fixture
def talkative(model: Model) -> Iterator[Model]:
    """It does not end a document."""
    like(model, end=-50.0)
    yield model
    like(model)


@pytest.fixture
def broken(model: Model, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes a call of a function of the network raise: the n-th that `when` holds for."""

    def set_up(name: str, after: int = 1, when: Callable[..., Any] = lambda *_: True) -> None:
        out_of_memory = faults.raising(RuntimeError("out of memory"))
        faults.at_call(monkeypatch, model.joint, name, out_of_memory, after, when)

    return set_up


def request(model: Model, question: str = QUESTION, **settings: Any) -> Request:
    return Request(model.codec.encode_prompt(question), GenerationSettings(**GREEDY | settings))


def alone(model: Model, asked: Request) -> list[int]:
    return Engine(model.joint, model.codec, slots=2).run([asked])[0].new_ids


def is_free(engine: Engine) -> bool:
    slots = engine.runner.slots
    return engine.is_idle and not any(engine.runner.lengths) and sorted(engine.scheduler.free) == list(range(slots))


# --- the repetition penalty -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [[PICTURE], [PICTURE, Gap("text"), PICTURE], [Gap("text"), PICTURE], None])
@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_a_penalty_where_no_text_was_seen(talkative: Model, parts: list[Part] | None, guidance_scale: float) -> None:
    """The first id is that without a penalty, as there is nothing to repeat; neighbours do not notice."""
    model, codec, document = talkative, talkative.codec, Document(content=parts or [])
    penalised, plain = (
        GenerationSettings(12, guidance_scale=guidance_scale, repetition_penalty=penalty, seed=3)
        for penalty in (1.2, 1.0)
    )
    neighbour = request(model)
    if document.gaps:
        asked = [request_to_fill(document, settings, codec) for settings in (penalised, plain)]
    else:
        prompt = codec.encode_prompt(document) if parts else [*codec.vocabulary.begin_ids]
        asked = [Request(prompt, settings) for settings in (penalised, plain)]
    assert not any(map(codec.vocabulary.is_text, asked[0].prompt))
    first, second, beside = Engine(model.joint, codec).run([*asked, neighbour])
    assert first.new_ids[0] == second.new_ids[0] and len(first.new_ids) > 1
    assert beside.new_ids == alone(model, neighbour)


# --- whatever raises --------------------------------------------------------------------------------------------------


def test_rows_of_a_step_that_raises_end_and_those_behind_them_begin(model: Model, broken: Callable) -> None:
    engine = Engine(model.joint, model.codec, slots=3)
    asked = [request(model, max_images=0), request(model, min_images=1, guidance_scale=2.0), request(model, "a")]
    expected = [alone(model, one) for one in asked]
    rows = [engine.submit(one) for one in asked]
    broken("logits", after=6)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(engine.events())
    events = list(engine.events())
    ends = [event for event in events if isinstance(event, Finished)]
    assert [event.id for event in ends] == [row.id for row in rows] and is_free(engine)
    assert [row.finish_reason == "failed" for row in rows] == [True, True, False]
    assert rows[2].result().new_ids == expected[2]
    for row, whole in zip(rows[:2], expected, strict=False):
        written = row.result().new_ids
        assert len(written) == len(row.result().log_probs) and whole[: len(written)] == written
        with pytest.raises(ValueError, match=r"behind a prompt of .* raised RuntimeError: out of memory, .* ask again"):
            row.result().checked()
    assert any(isinstance(event, TextPiece) and event.id == rows[2].id for event in events)
    assert [one.new_ids for one in engine.run(asked)] == expected


def test_a_prompt_that_cannot_be_read_ends_nobody_who_writes(model: Model, broken: Callable) -> None:
    engine, short, long = Engine(model.joint, model.codec, slots=2), request(model, "a"), request(model, 2 * QUESTION)
    expected = alone(model, short)
    row = engine.submit(short)
    for _ in range(3):
        engine.step()
    refused = engine.submit(long)
    broken("hidden", when=lambda ids, *_: ids.shape[1] > 1)
    with pytest.raises(RuntimeError, match="out of memory"):
        engine.step()
    assert refused.finish_reason == "failed" and not refused.new_ids and row.finish_reason is None
    list(engine.events())
    assert row.result().new_ids == expected and is_free(engine)


def test_text_that_cannot_be_read_does_not_hold_the_rest(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second row of a step raises in the midst of its id, and would again when it ends."""
    engine, plain, calls = Engine(model.joint, model.codec, slots=3), reporter.Reporter.follow, []
    rows = [engine.submit(request(model, text, max_images=0)) for text in ("a", QUESTION, "Then,")]

    def follow(self: Any, *given: Any) -> Any:
        if self.id == rows[1].id and len(self.progress.new_ids) == 3:
            monkeypatch.setattr(self.run, "close", lambda: calls.append(1) or 1 / 0)
            raise OverflowError("no such id")
        return plain(self, *given)

    monkeypatch.setattr(reporter.Reporter, "follow", follow)
    with pytest.raises(OverflowError, match="no such id"):
        list(engine.events())
    assert [row.finish_reason for row in rows] == ["failed"] * 3 and not calls
    assert [type(event) for event in engine.step()].count(Finished) == 3 and is_free(engine)


@pytest.mark.parametrize("after", [1, 4])
def test_a_conversation_goes_on_behind_a_step_that_raised(model: Model, broken: Callable, after: int) -> None:
    fresh = model.generate(QUESTION, **GREEDY)
    chat = model.chat(**GREEDY)
    broken("logits", after)
    with pytest.raises(ValueError, match="raised RuntimeError: out of memory"):
        chat.send(QUESTION)
    assert not chat.document.messages and not chat.session.busy
    assert chat.send(QUESTION).content == fresh.answer


def test_a_run_beside_others_ends_with_the_error(model: Model, broken: Callable) -> None:
    """What was submitted before is told by the next step that it has ended, too."""
    engine = Engine(model.joint, model.codec, slots=2)
    other = engine.submit(request(model, "a"))
    broken("logits", after=3)
    with pytest.raises(RuntimeError, match="out of memory"):
        engine.run([request(model)])
    assert {event.id for event in engine.step()} == {other.id} and other.finish_reason == "failed" and is_free(engine)


def test_what_was_half_written_to_the_cache_is_gone(model: Model, broken: Callable) -> None:
    engine, asked = Engine(model.joint, model.codec, slots=1), request(model)
    expected, plain = alone(model, asked), model.joint.logits
    engine.submit(asked)
    for _ in range(3):
        engine.step()

    def interrupted(*given: Any) -> Any:
        for layer in engine.runner.cache.layers:
            layer.values.fill_(torch.nan)
        raise KeyboardInterrupt

    model.joint.logits = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    model.joint.logits = plain  # type: ignore[method-assign]
    assert [one.new_ids for one in engine.run([asked])] == [expected]
