"""The stream of events, conversations on their cache, and gaps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jam import cm3
from jam.api.model import Model
from jam.cli import main
from jam.data.examples import Objective, make_example
from jam.documents import Document, Gap, Image, Message, Text, parse_document, to_record
from jam.generation import (
    Engine,
    Finished,
    GenerationSettings,
    ImageDone,
    ImageProgress,
    ImageStarted,
    Request,
    TextPiece,
    request_to_fill,
    settings_to_fill,
)
from jam.generation.model_runner import bytes_per_token
from jam.grammar import State
from support import tiny
from support.writing import like, writer

QUESTION = "How do I draw it?"


@pytest.fixture(scope="module", params=["cross", "single"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return writer(tmp_path_factory.mktemp("writer") / request.param, request.param, context=160)


# --- events -----------------------------------------------------------------------------------------------------------


def test_the_stream_of_a_document(model: Model) -> None:
    events = list(model.stream(QUESTION, min_images=2, max_new_tokens=60, guidance_scale=2.0, seed=3))
    last = events[-1]
    assert isinstance(last, Finished) and last.document is not None
    assert (last.reason, last.tokens, last.images) == tuple(
        last.document.extra[key] for key in ("finish_reason", "tokens", "images")
    )
    whole = model.generate(QUESTION, min_images=2, max_new_tokens=60, guidance_scale=2.0, seed=3)
    assert to_record(last.document) == to_record(whole)
    told: list[Any] = [""]
    for event in events:
        if isinstance(event, TextPiece):
            told[-1] += event.text
        elif isinstance(event, ImageDone):
            told += [event.codes, ""]
    answer = [part.text if isinstance(part, Text) else part.codes for part in whole.answer]
    assert [part for part in told if part] == [part for part in answer if part]
    kinds = [type(event) for event in events if not isinstance(event, TextPiece | Finished)]
    assert kinds == [ImageStarted, ImageProgress, ImageDone] * last.images and last.images >= 2


def test_pictures_are_decoded_on_demand_row_by_row(model: Model) -> None:
    events = list(model.stream(QUESTION, min_images=1, max_images=1, max_new_tokens=40))
    half = next(event for event in events if isinstance(event, ImageProgress))
    done = next(event for event in events if isinstance(event, ImageDone))
    assert (half.done, half.total, half.picture().size) == (2, 4, (4, 2))
    assert done.picture().tobytes() == events[-1].document.images[0].load().tobytes()
    with pytest.raises(ValueError, match="no image tokenizer"):
        ImageDone(done.id, 0, done.codes, None, None).picture()


def test_events_of_a_batch_name_their_row(model: Model) -> None:
    engine = Engine(model.joint, model.codec, slots=8)
    prompt = model.codec.encode_prompt(QUESTION)
    rows = [engine.submit(Request(prompt, GenerationSettings(20, seed=seed))) for seed in range(4)]
    engine.step()
    engine.cancel(rows[2])
    engine.cancel(rows[2])  # once is enough
    events = list(engine.events())
    assert {event.id for event in events} <= {row.id for row in rows}
    finished = [event for event in events if isinstance(event, Finished)]
    assert len(finished) == 4 and rows[2].finish_reason == "cancelled"


# --- conversations ----------------------------------------------------------------------------------------------------


def test_a_conversation_equals_a_fresh_prefill_and_keeps_its_cache(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    plain = model.joint.hidden
    monkeypatch.setattr(model.joint, "hidden", lambda ids, *rest: read.append(ids.shape[1]) or plain(ids, *rest))
    like(model, end=9.0)
    chat, turns = model.chat(max_new_tokens=30, guidance_scale=2.0, seed=5), []
    picture = Image(codes=[7, 8, 9, 10])
    for number, message in enumerate(["How do I draw it?", [Text("a"), picture], "First draw a red house."]):
        turns.append(Message("user", [Text(message)] if isinstance(message, str) else message))
        settings = GenerationSettings(max_new_tokens=30, guidance_scale=2.0, seed=5).for_row(number)
        fresh = model.generate_all([Document(messages=turns)], settings)[0]
        read.clear()
        answer = chat.send(message)
        assert to_record(Document(content=answer.content)) == to_record(Document(content=fresh.answer))
        asked = len(model.codec.encode_prompt(Document(messages=turns)))
        if number:
            assert sum(read) < asked + answer.extra["tokens"]  # else every id of the conversation would be read again
        turns.append(Message("assistant", answer.content))
    assert to_record(chat.document) == to_record(Document(messages=turns))
    kept = chat.loop.engine.runner.lengths
    assert kept[0] > 0 and not any(kept[1:])
    chat.close()
    assert not any(chat.loop.engine.runner.lengths)
    assert chat.send("a").extra["tokens"] > 0  # read anew
    like(model)


def test_a_conversation_that_is_left_or_full(model: Model) -> None:
    chat = model.chat(max_new_tokens=20, system="Then,")
    for event in chat.stream(QUESTION, min_images=1):
        assert isinstance(event, TextPiece | ImageStarted)
        break
    assert len(chat.document.messages) == 1
    assert chat.send(QUESTION).extra["tokens"] > 0
    with pytest.raises(ValueError, match="a prompt may have 159 tokens"):
        chat.send(40 * QUESTION)
    assert len(chat.document.messages) == 3 and chat.send("a").extra["tokens"] > 0 and chat.loop.engine.is_idle


def test_a_conversation_has_a_cache_of_its_length(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, short = (model.chat(length=length, max_new_tokens=10) for length in (None, 40))
    assert whole.send("a").extra["tokens"] and short.send("a").extra["tokens"]
    assert whole.loop.engine.runner.cache.bytes == 4 * short.loop.engine.runner.cache.bytes
    with pytest.raises(ValueError, match="a prompt may have 39 tokens"):
        short.send(20 * QUESTION)
    monkeypatch.setattr("jam.api.model.available_memory", lambda device: 2 * short.loop.engine.runner.cache.bytes)
    with pytest.raises(ValueError, match="give a shorter length"):
        model.chat()
    assert model.chat(length=40, max_new_tokens=10).send("a").extra["tokens"]


def test_the_size_of_the_cache_is_found_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    first = bytes_per_token(model.joint)
    monkeypatch.setattr(model.joint, "hidden", None)
    assert bytes_per_token(model.joint) == first
    model.joint.half()
    try:
        with pytest.raises(TypeError):  # another type: it is looked at anew
            bytes_per_token(model.joint)
    finally:
        model.joint.float()


def test_a_resting_session_gives_way(model: Model) -> None:
    chat = model.chat(max_new_tokens=10, temperature=0.0)
    first = chat.send(QUESTION)
    guided = Request(model.codec.encode_prompt("a"), GenerationSettings(10, guidance_scale=2.0))
    chat.loop.run([guided])
    assert chat.session.slot is None
    turns = [Message("user", [Text(QUESTION)]), Message("assistant", first.content), Message("user", [Text("a")])]
    fresh = model.generate(Document(messages=turns), max_new_tokens=10, temperature=0.0)
    assert to_record(Document(content=chat.send("a").content)) == to_record(Document(content=fresh.answer))


# --- gaps -------------------------------------------------------------------------------------------------------------


def test_a_gap_is_not_guided_unless_that_is_asked_for() -> None:
    """What is the folder's default for whole documents is not that of a gap."""
    defaults = GenerationSettings(stop=(".",), min_images=1, guidance_scale=3.0, image_top_p=0.5)
    assert settings_to_fill(defaults) == GenerationSettings(image_top_p=0.5)
    assert settings_to_fill(defaults, guidance_scale=2.0).guidance_scale == 2.0


DOCUMENT = [Text("First"), Image(codes=[1, 2, 3, 4]), Text(" draw it"), Image(codes=[5, 6, 7, 8]), Text("a")]


@pytest.mark.parametrize("gaps", [(0,), (1,), (2,), (1, 2), (0, 1, 2, 3, 4)])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_gaps_are_filled_with_what_belongs_there(model: Model, gaps: tuple[int, ...], guidance: float) -> None:
    parts = [
        Gap("image" if isinstance(part, Image) else "text") if place in gaps else part
        for place, part in enumerate(DOCUMENT)
    ]
    document = Document(messages=[Message("user", [Text(QUESTION)]), Message("assistant", parts)])
    done = model.fill(document, guidance_scale=guidance, seed=2, max_new_tokens=60)
    assert not done.gaps and done.messages[0] == document.messages[0]
    for place, (part, original) in enumerate(zip(done.answer, DOCUMENT, strict=True)):
        assert type(part) is type(original)
        if place not in gaps:
            assert part == original
        elif isinstance(part, Image):
            assert len(part.codes) == tiny.IMAGE_TOKENS and part.load().size == (4, 4)
        else:
            assert part.text
    assert done.extra["images"] == sum(isinstance(DOCUMENT[place], Image) for place in gaps)


def test_what_fills_a_gap_is_scored_as_the_whole_masked_document(model: Model) -> None:
    """The ids are a document that CM3 masks, and each sampled one has the probability that training gives it."""
    document = Document(content=[Text("First"), Gap("image"), Gap("text"), Image(codes=[5, 6, 7, 8]), Text("a")])
    request = request_to_fill(document, GenerationSettings(40, seed=1), model.codec)
    generation = Engine(model.joint, model.codec).run([request])[0]
    ids, grammar, v = generation.prompt_ids + generation.new_ids, model.joint.grammar, model.codec.vocabulary
    unmasked = cm3.unmask(ids, v)
    assert sum(v.is_image(token) for token in unmasked) == 2 * grammar.image_tokens
    states = grammar.states(ids)
    with torch.no_grad():
        logits = model.joint.logits(model.joint.hidden(torch.tensor([ids[:-1]])), torch.tensor([states[1:]]))[0]
    log_probs = logits.masked_fill(~grammar.allowed()[torch.tensor(states[1:])], -torch.inf).log_softmax(-1)
    start, forced = len(request.prompt), 0
    for place, (token, given) in enumerate(zip(generation.new_ids, generation.log_probs, strict=True), start=start):
        full = states[place] is State.IMAGE_SPAN and token == v.eoss_id
        if full or states[place] is State.CLOSED:
            assert given == 0.0
            forced += 1
        else:
            assert given == pytest.approx(float(log_probs[place - 1, token]), abs=1e-4)
    assert forced == 2 and states[start:].count(State.IMAGE_SPAN) == grammar.image_tokens + 1


def test_the_budget_closes_the_gaps(model: Model) -> None:
    """A text that is filled before the budget closes it takes 8 tokens with the picture."""
    document = Document(content=[Text("First"), Gap("text"), Image(codes=[5, 6, 7, 8]), Text("a"), Gap("image")])
    for budget in range(8, 14):
        ends = {"open": ("max_new_tokens", budget), "closed": ("max_new_tokens" if budget == 8 else "end", 8)}
        for text, close in (("open", -50.0), ("closed", 50.0)):
            like(model, stop=0.0, space=0.0, close=close)
            done = model.fill(document, max_new_tokens=budget, seed=1)
            assert not done.gaps and (done.extra["finish_reason"], done.extra["tokens"]) == ends[text]
    with pytest.raises(ValueError, match="the gaps need 8 tokens or more, and 7 are left"):
        model.fill(document, max_new_tokens=7)
    like(model)


def test_gaps_in_documents_and_their_mistakes(model: Model) -> None:
    line = {"content": [{"type": "text", "text": "a"}, {"type": "gap", "modality": "image"}]}
    document = parse_document(json.dumps(line))
    assert document.gaps == [Gap("image")] and to_record(document) == line
    with pytest.raises(ValueError, match='"modality": "text" or "image"'):
        parse_document('{"content": [{"type": "gap", "modality": "sound"}]}')
    with pytest.raises(ValueError, match="there is no gap to fill"):
        model.fill(Document(content=[Text("a")]))
    for refused in (lambda: model.codec.encode(document), lambda: model.generate(document)):
        with pytest.raises(ValueError, match="a gap stands where there must be none"):
            refused()
    asked = Document(messages=[Message("user", [Gap("text")]), Message("assistant", [Gap("text")])])
    with pytest.raises(ValueError, match="in the last answer only"):
        model.fill(asked)
    for counted in ({"stop": ["a"]}, {"min_images": 3}, {"max_images": 0}):
        with pytest.raises(ValueError, match=r"stop strings end a document, and min_images .* no meaning for gaps"):
            model.fill(document, **counted)
    model.settings = replace(model.settings, stop=("a",), min_images=1)  # defaults are about whole documents
    try:
        assert not model.fill(document).gaps
    finally:
        model.settings = GenerationSettings()
    v = model.codec.vocabulary
    partly = [v.eos_id, v.break_id, v.image_start, v.sentinel_id(0), v.eos_id, v.sentinel_id(0)]
    with pytest.raises(ValueError, match="position 3: a part of a picture is masked"):
        Engine(model.joint).run([partly], GenerationSettings())


def test_training_masks_whole_parts() -> None:
    codec, rng = tiny.codec(), np.random.default_rng(0)
    v = codec.vocabulary
    parts = [Text("First"), Image(codes=[1, 2, 3, 4]), Text(" draw it")]
    encoded = codec.encode(Document(messages=[Message("user", [Text("a")]), Message("assistant", parts)]))
    segments = cm3.segments(encoded.ids, v, encoded.main_start)
    drawn = [cm3.part_span(encoded.ids, v, rng, encoded.main_start) for _ in range(300)]
    assert {span for spans in drawn for span in spans} == set(segments) and len(segments) == 3
    assert min(sum(spans == [segment] for spans in drawn) for segment in segments) > 70
    example = make_example(encoded, codec.grammar, Objective(cm3=False, part_rate=1.0), rng)
    masked = [int(example.inputs[0]), *example.targets.tolist()]
    assert cm3.unmask(masked, v) == encoded.ids and masked != encoded.ids
    shares = [Objective(cm3=False, part_rate=0.3) for _ in range(400)]
    count = sum(len(make_example(encoded, codec.grammar, one, rng)) > len(encoded.ids) for one in shares)
    assert 80 < count < 160


def test_jam_fill(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "model"
    made = tiny.model(tmp_path / "parts")
    folder.mkdir()
    made.save(folder)
    gaps = tmp_path / "gaps.json"
    line = {"content": [{"type": "text", "text": "a"}, {"type": "gap", "modality": "image"}]}
    gaps.write_text(json.dumps(line, indent=1) + "\n")
    page = tmp_path / "page.html"
    assert main(["fill", str(folder), str(gaps), "--out", str(page), "--device", "cpu", "--seed", "1"]) == 0
    assert page.read_text().count("<img") == 1 and "the filled documents" in capsys.readouterr().err
    assert main(["fill", str(folder), str(gaps), "--device", "cpu"]) == 0
    assert "[picture" in capsys.readouterr().out
    arguments = ["generate", str(folder), "a", "--device", "cpu", "--max-new-tokens", "20", "--begin", "First"]
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith("a\nFirst")
    assert main([*arguments, "--stop", "e", "x", "--guidance-schedule", "linear"]) == 1
    assert "needs guidance_end" in capsys.readouterr().err
