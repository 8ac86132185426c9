"""Prompts that begin alike are read once, whoever joins or leaves, and every document is the one that it is alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from jam.api.model import Model
from jam.generation import Engine, GenerationSettings, Request
from jam.generation.model_runner import ModelRunner
from jam.generation.prefixes import common_length
from support.writing import writer

QUESTION = "How do I draw it?"
SETTINGS = GenerationSettings(max_new_tokens=14, min_images=1)


@pytest.fixture(scope="module", params=["cross", "single"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return writer(tmp_path_factory.mktemp("writer") / request.param, request.param)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """How many ids each prefill reads, by stream."""
    counts: list[list[int]] = []
    plain = ModelRunner.prefill

    def prefill(self: ModelRunner, slots: list[int], ids: list[list[int]]) -> None:
        counts.append([len(chunk) for chunk in ids])
        plain(self, slots, ids)

    monkeypatch.setattr(ModelRunner, "prefill", prefill)
    return counts


def prompt(model: Model, *texts: str) -> list[int]:
    """Texts that are encoded apart, so that equal ones have equal ids."""
    ids = model.codec.encode_prompt(texts[0])
    return ids + [token for text in texts[1:] for token in model.codec.encode_prompt(text)[1:]]


def requests(prompts: list[list[int]], **settings: object) -> list[Request]:
    return [Request(ids, replace(SETTINGS, **settings).for_row(row)) for row, ids in enumerate(prompts)]


def unshared(model: Model, asked: list[Request], monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    with monkeypatch.context() as context:
        context.setattr("jam.generation.prefixes.LEAST", 10**6)
        return [one.new_ids for one in Engine(model.joint, model.codec, slots=16).run(asked)]


def test_equal_prompts_are_read_once(model: Model, read: list, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = requests(8 * [prompt(model, QUESTION)])
    expected = unshared(model, asked, monkeypatch)
    length = len(asked[0].prompt) - 1
    assert read == [8 * [length]]
    read.clear()
    engine = Engine(model.joint, model.codec, slots=16)
    rows = [engine.submit(request) for request in asked]
    engine.step()
    assert read == [[length]] and all(row.new_ids for row in rows)  # and all write in the same step
    list(engine.events())
    assert [row.result().new_ids for row in rows] == expected


def test_a_common_beginning_is_read_once(model: Model, read: list, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [prompt(model, QUESTION, text) for text in (QUESTION, "a", "First draw", "a" + QUESTION)]
    asked = requests([*prompts, prompt(model, "a")])
    expected = unshared(model, asked, monkeypatch)
    alone = sum(map(sum, read))
    read.clear()
    assert [one.new_ids for one in Engine(model.joint, model.codec, slots=16).run(asked)] == expected
    assert sum(map(sum, read)) == alone - 3 * len(prompt(model, QUESTION))


def test_a_request_that_joins_takes_what_a_running_one_has_read(
    model: Model, read: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = requests([prompt(model, QUESTION), prompt(model, QUESTION), prompt(model, QUESTION, "a")])
    expected = unshared(model, asked, monkeypatch)
    engine = Engine(model.joint, model.codec, slots=8)
    rows = [engine.submit(asked[0])]
    for _ in range(4):
        engine.step()
    read.clear()
    rows += [engine.submit(request) for request in asked[1:]]
    list(engine.events())
    assert [row.result().new_ids for row in rows] == expected
    assert read == [[1]]  # of "a": the last id of the prompt is read by the first step


@pytest.mark.parametrize("leaves", ["cancelled", "ends at once", "stays"])
def test_a_leader_may_leave_while_it_is_read(model: Model, monkeypatch: pytest.MonkeyPatch, leaves: str) -> None:
    ids = prompt(model, QUESTION, QUESTION, QUESTION)
    budget = 1 if leaves == "ends at once" else 14
    asked = [Request(ids, GenerationSettings(max_new_tokens=budget)), *requests(3 * [ids])[1:]]
    expected = unshared(model, asked, monkeypatch)
    monkeypatch.setattr("jam.generation.engine.CHUNK", 7)
    engine = Engine(model.joint, model.codec, slots=3)
    rows = [engine.submit(request) for request in asked]
    engine.step()
    engine.step()
    assert engine.runner.lengths == [14, 0, 0]
    if leaves == "cancelled":
        engine.cancel(rows[0])
        engine.step()
        assert engine.runner.lengths == [0, 7, 0]  # the next one reads for both
    list(engine.events())
    assert [row.result().new_ids for row in rows[1:]] == expected[1:]
    assert engine.is_idle and engine.runner.lengths == [0] * 3


def test_contexts_of_unconditional_streams_are_shared(model: Model, read: list, monkeypatch) -> None:
    v = model.codec.vocabulary
    context = prompt(model, QUESTION)
    asked = [
        Request([*prompt(model, text), v.break_id], replace(SETTINGS, guidance_scale=2.0, seed=row), None, context)
        for row, text in enumerate(["a", "First", "draw"])
    ]
    expected = unshared(model, asked, monkeypatch)
    before = sum(map(sum, read))
    read.clear()
    engine = Engine(model.joint, model.codec, slots=6)
    assert [one.new_ids for one in engine.run(asked)] == expected
    assert sum(map(sum, read)) == before - 2 * len(context)


def test_the_longest_common_beginning() -> None:
    rng = torch.Generator().manual_seed(0)
    for _ in range(200):
        one, other = (torch.randint(2, (int(torch.randint(9, (1,), generator=rng)),), generator=rng) for _ in range(2))
        one, other = one.tolist(), other.tolist()
        length = common_length(one, other)
        assert one[:length] == other[:length]
        assert length == min(len(one), len(other)) or one[length] != other[length]
