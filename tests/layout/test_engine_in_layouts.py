"""The engine in families' layouts: counts of pictures, events, gaps and their log-probabilities."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from jam import cm3
from jam.api.model import Model
from jam.checkpoints import Manifest
from jam.documents import Document, Gap, Image, Message, Text
from jam.generation import (
    Engine,
    Finished,
    GenerationSettings,
    ImageDone,
    ImageProgress,
    ImageStarted,
    Request,
    model_runner,
    request_for,
    request_to_fill,
)
from jam.grammar import State
from support import layouts, tiny

FAMILIES = sorted(layouts.LAYOUTS)


@cache
def made(family: str) -> Model:
    """A random model of a family's layout, whose pictures have 2 x 2 codes."""
    codec = layouts.codec(family, tiny.GRID)
    joint = tiny.network("cross", codec.vocabulary, context=320)
    for parameter in joint.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.25)
    manifest = Manifest("fused", vocabulary=codec.vocabulary.to_dict(), image_grid=list(tiny.GRID))
    return Model(Path(), joint.eval(), codec, manifest, GenerationSettings())


def assert_scored(model: Model, ids: list[int], log_probs: list[float]) -> None:
    """Every id that was a choice has the probability of one plain forward."""
    grammar = model.joint.grammar
    states = grammar.states(ids)[1:]
    with torch.no_grad():
        logits = model.joint.logits(model.joint.hidden(torch.tensor([ids[:-1]])), torch.tensor([states]))[0]
    plain = logits.masked_fill(~grammar.allowed()[torch.tensor(states)], -torch.inf).log_softmax(-1)
    chosen = plain[range(len(states)), ids[1:]][-len(log_probs) :]
    eoss = model.codec.vocabulary.eoss_id
    new = zip(log_probs, chosen.tolist(), states[-len(log_probs) :], ids[-len(log_probs) :], strict=True)
    for given, expected, state, token in new:
        forced = state in (State.FRAME, State.CLOSED) or (state is State.IMAGE_SPAN and token == eoss)
        assert given == (0.0 if forced else pytest.approx(expected, abs=1e-4))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_pictures_by_number_and_event(family: str, guidance: float) -> None:
    model = made(family)
    engine = Engine(model.joint, model.codec, slots=4)
    settings = GenerationSettings(100, min_images=2, max_images=2, guidance_scale=guidance, seed=1)
    question = Document(messages=[Message("user", [Text("How do I draw it?")])])
    row = engine.submit(request_for(question, settings, model.codec))
    events = list(engine.events())
    generation = row.result()
    assert isinstance(events[-1], Finished) and generation.images == 2
    kinds = [type(event) for event in events if isinstance(event, ImageStarted | ImageProgress | ImageDone)]
    assert kinds in ([ImageStarted, ImageDone] * 2, [ImageStarted, ImageProgress, ImageDone] * 2)
    pictures = [event.codes for event in events if isinstance(event, ImageDone)]
    document = model.codec.decode(row.prompt + generation.new_ids, len(row.prompt))
    assert pictures == [image.codes for image in document.images]
    assert_scored(model, row.prompt + generation.new_ids, generation.log_probs)
    assert engine.runner.lengths == [0] * 4
    with pytest.raises(ValueError, match="would fit"):
        engine.submit(request_for(question, replace(settings, max_new_tokens=12), model.codec))


@pytest.mark.parametrize("family", FAMILIES)
def test_gaps(family: str) -> None:
    model, v = made(family), made(family).codec.vocabulary
    parts = [Text("First"), Gap("image"), Gap("text"), Image(codes=[5, 6, 7, 8]), Text("a")]
    document = Document(content=parts)
    request = request_to_fill(document, GenerationSettings(60, guidance_scale=2.0, seed=3), model.codec)
    generation = Engine(model.joint, model.codec, slots=2).run([request])[0]
    ids = request.prompt + generation.new_ids
    assert_scored(model, ids, generation.log_probs)
    whole = model.codec.decode(cm3.unmask(ids, v))
    assert [image.codes for image in whole.images][1] == [5, 6, 7, 8] and len(whole.images) == 2
    done = model.fill(document, max_new_tokens=60, guidance_scale=2.0, seed=3)
    assert not done.gaps and done.images[0].codes == whole.images[0].codes


@pytest.mark.parametrize("family", ["emu3", "janus"])
def test_conversations(family: str) -> None:
    model = made(family)
    chat = model.chat(max_new_tokens=30, temperature=0.0)
    first = chat.send("How do I draw it?")
    turns = [Message("user", [Text("How do I draw it?")]), Message("assistant", first.content)]
    fresh = model.generate(
        Document(messages=[*turns, Message("user", [Text("a")])]), max_new_tokens=30, temperature=0.0
    )
    assert chat.send("a").content == fresh.answer


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_forced_ids_take_no_forward_of_their_own(family: str, guidance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are at different places: what is read apart is each slot's prompt, once; the ids are the same."""
    model = made(family)
    prompts = [model.codec.encode_prompt(text) for text in ("a", "Two.", "How do I draw it?", "Then, a")]
    settings = GenerationSettings(90, min_images=3, max_images=3, guidance_scale=guidance, seed=5)
    requests = [Request(prompt, settings.for_row(row)) for row, prompt in enumerate(prompts)]

    def written(cheap: int) -> tuple[list[list[int]], int]:
        """What comes out, and in how many steps."""
        monkeypatch.setitem(model_runner.CHEAP, "cpu", cheap)
        engine, forwards, steps = Engine(model.joint, slots=8), [], []
        read = engine.runner._read
        monkeypatch.setattr(engine.runner, "_read", lambda *given: forwards.append(1) or read(*given))
        generations = engine.run(requests, on_step=lambda rows: steps.append(1))
        assert len(forwards) <= len(steps) + len(requests) * (1 if guidance == 1 else 2)
        return [generation.new_ids for generation in generations], len(steps)

    apart, together = written(0), written(64)
    assert together[0] == apart[0] and together[1] < apart[1]
