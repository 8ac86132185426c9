"""The engine as a whole: requests that join and leave, rescoring, neighbours, memory, and 200 random requests."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from jam.api.model import Model
from jam.codec.text import decode_text
from jam.generation import Engine, Finished, Generation, GenerationSettings, Request
from jam.generation.marks import ends_sentence
from jam.grammar import Cursor, State
from jam.models.cpu_kernel import linear, load_kernel
from support.writing import settings_of, writer

QUESTION = "How do I draw it?"


@pytest.fixture(scope="module", params=["cross", "single"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return writer(tmp_path_factory.mktemp("writer") / request.param, request.param)


@pytest.fixture(scope="module")
def cross(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return writer(tmp_path_factory.mktemp("writer") / "cross")


def prompts(model: Model, count: int, rng: torch.Generator) -> list[list[int]]:
    """Questions, some with pictures, and beginnings that end in text, in a picture, or behind one."""
    v, made = model.codec.vocabulary, []
    for _ in range(count):
        ids = model.codec.encode_prompt(QUESTION[: int(torch.randint(3, len(QUESTION), (1,), generator=rng))])
        codes = v.to_image_ids(torch.randint(v.image_size, (4,), generator=rng).tolist())
        kind = int(torch.randint(5, (1,), generator=rng))
        made.append(ids + [[], [v.break_id], [v.break_id, *codes[:2]], [v.break_id, *codes], []][kind])
    return made


def random_requests(model: Model, count: int, seed: int, longest: int = 60) -> list[Request]:
    rng = torch.Generator().manual_seed(seed)
    found: list[Request] = []
    engine = Engine(model.joint, model.codec, slots=2)
    while len(found) < count:
        request = Request(prompts(model, 1, rng)[0], settings_of(rng, longest))
        try:
            engine.cancel(engine.submit(request))
        except ValueError as error:
            assert "would fit" in str(error) or "are left" in str(error)
            continue
        found.append(request)
    return found


def assert_promises(model: Model, request: Request, generation: Generation) -> None:
    """Part by part: pictures whole, their number, a budget that is kept and ends at a sentence or behind a picture."""
    grammar, settings, v = model.joint.grammar, request.settings, model.codec.vocabulary
    ids = generation.prompt_ids + generation.new_ids
    assert len(generation.new_ids) == len(generation.log_probs) <= settings.max_new_tokens
    grammar.states(ids)
    cursor, whole, open_codes = Cursor(grammar), 0, 0
    for place, token in enumerate(ids[1:], start=1):
        before = cursor.images
        cursor.feed(token)
        whole += place >= len(request.prompt) and cursor.images > before
    open_codes = cursor.codes if cursor.state is State.IMAGE else 0
    cancelled = generation.finish_reason == "cancelled"
    assert whole == generation.images
    if cancelled:
        assert not open_codes or not generation.new_ids  # the prompt's own picture was open
        return
    assert cursor.state is not State.IMAGE
    assert generation.images >= settings.min_images
    assert settings.max_images is None or generation.images <= max(settings.max_images, opens_picture(model, request))
    assert (generation.finish_reason == "end") == (ids[-1] == v.eos_id)
    if generation.finish_reason in ("max_new_tokens", "context") and generation.new_ids:
        last = model.codec.decode(ids).content[-1]
        assert v.is_image(ids[-1]) or generation.is_cut or ends_sentence(last.text), last
    if generation.finish_reason == "stop":
        assert generation.text_end is not None
        start = max([len(request.prompt), *(place + 1 for place, token in enumerate(ids) if token == v.break_id)])
        text = decode_text(model.codec.tokenizer, ids[start:])
        assert text[generation.text_end :].startswith(settings.stop)
        assert not any(stop in text[: generation.text_end] for stop in settings.stop)


def bytes_of_tensors() -> int:
    """Of all that are alive and have a storage: sparse and fake ones, which other tests leave behind, have none."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if type(thing) in (torch.Tensor, torch.nn.Parameter)]
    alive = [one for one in tensors if one.layout is torch.strided]
    return sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in alive}.values())


def opens_picture(model: Model, request: Request) -> bool:
    cursor = Cursor(model.joint.grammar)
    for token in request.prompt[1:]:
        cursor.feed(token)
    return cursor.state is State.IMAGE


def rescored(model: Model, generation: Generation) -> torch.Tensor:
    """Log-probabilities of the new ids by one plain forward."""
    ids, grammar = generation.prompt_ids + generation.new_ids, model.joint.grammar
    states = torch.tensor([grammar.states(ids)[1:]])
    with torch.no_grad():
        logits = model.joint.logits(model.joint.hidden(torch.tensor([ids[:-1]])), states)[0]
    log_probs = logits.masked_fill(~grammar.allowed()[states[0]], -torch.inf).log_softmax(-1)
    return log_probs[range(len(ids) - 1), ids[1:]][len(generation.prompt_ids) - 1 :]


def test_rescoring_50_documents(model: Model) -> None:
    requests = random_requests(model, 50, seed=1)
    tokens = 0
    for generation in Engine(model.joint, model.codec, slots=16).run(requests):
        tokens += len(generation.new_ids)
        expected = rescored(model, generation)
        torch.testing.assert_close(torch.tensor(generation.log_probs), expected, rtol=0, atol=1e-4)
    assert tokens > 500


needs_kernel = pytest.mark.skipif(not load_kernel(), reason="no C++ compiler")


@pytest.mark.parametrize(
    "way", [pytest.param("kernel", marks=needs_kernel), "fixed shapes", pytest.param("both", marks=needs_kernel)]
)
def test_the_fast_ways_write_the_same(cross: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """The kernel of few rows, and steps of fixed shapes (as on a GPU), under the engine, with rows that come and go."""
    requests = random_requests(cross, 16, seed=6, longest=40)
    expected = Engine(cross.joint, cross.codec, slots=5).run(requests)
    fast = writer(tmp_path / "fast")
    fast.joint.load_state_dict(cross.joint.state_dict())
    if way != "fixed shapes":
        monkeypatch.setattr(linear, "LARGE", 0)
    if way != "kernel":
        monkeypatch.setattr("jam.generation.model_runner.can_capture", lambda model: True)
        monkeypatch.setattr("jam.generation.fixed.FEWEST_KEYS", 4)
    engine = Engine(fast.joint, fast.codec, slots=5)
    assert bool(engine.runner.kernel_layers) == (way != "fixed shapes")
    assert (engine.runner.step is None) == (way == "kernel")
    for one, other in zip(engine.run(requests), expected, strict=True):
        assert one.new_ids == other.new_ids
        torch.testing.assert_close(torch.tensor(one.log_probs), torch.tensor(other.log_probs), rtol=0, atol=1e-4)
    assert engine.runner.lengths == engine.runner.cache.lengths.tolist() == [0] * 5


def test_neighbours_do_not_matter(model: Model) -> None:
    requests = random_requests(model, 12, seed=2)
    alone = [Engine(model.joint, model.codec, slots=2).run([request])[0] for request in requests]
    together = [
        one
        for start in range(0, len(requests), 8)
        for one in Engine(model.joint, model.codec, slots=16).run(requests[start : start + 8])
    ]
    engine, late = Engine(model.joint, model.codec, slots=16), []
    for request in requests:  # each joins three steps after the one before
        late.append(engine.submit(request))
        for _ in range(3):
            engine.step()
    list(engine.events())
    assert [one.new_ids for one in together] == [one.new_ids for one in alone]
    assert [row.result().new_ids for row in late] == [one.new_ids for one in alone]
    assert sum(one.images for one in alone) > 8


@pytest.mark.parametrize("seed", [3, pytest.param(4, marks=pytest.mark.slow), pytest.param(5, marks=pytest.mark.slow)])
def test_200_random_requests_through_16_rows(cross: Model, seed: int) -> None:
    requests = random_requests(cross, 200, seed, longest=40)
    engine = Engine(cross.joint, cross.codec, slots=16)
    rng = torch.Generator().manual_seed(seed)
    rows, finished = [], []
    engine.run([requests[0]])
    memory = bytes_of_tensors()
    for request in requests:
        rows.append(engine.submit(request))
        for _ in range(int(torch.randint(3, (1,), generator=rng))):
            finished += [event for event in engine.step() if isinstance(event, Finished)]
        if float(torch.rand(1, generator=rng)) < 0.1:
            engine.cancel(rows[int(torch.randint(len(rows), (1,), generator=rng))])
    finished += [event for event in engine.events() if isinstance(event, Finished)]
    engine.run([requests[0]])
    assert bytes_of_tensors() == memory
    assert len(finished) == 200 and {event.id for event in finished} == {row.id for row in rows}
    for request, row in zip(requests, rows, strict=True):
        assert_promises(cross, request, row.result())
    reasons = {row.finish_reason for row in rows}
    assert reasons >= {"end", "max_new_tokens", "stop", "cancelled"}
    assert engine.runner.lengths == [0] * 16 and sorted(engine.scheduler.free) == list(range(16))
    assert engine.runner.cache.lengths.tolist() == [0] * 16
    assert engine.is_idle and not engine.scheduler.running


def test_waiting_is_fair_and_fits_the_slots(cross: Model) -> None:
    """A guided document needs two slots; behind it others wait, and none is overtaken."""
    engine = Engine(cross.joint, cross.codec, slots=2)
    prompt = cross.codec.encode_prompt(QUESTION)
    plain = GenerationSettings(max_new_tokens=8, temperature=0.0)
    settings = [plain, replace(plain, guidance_scale=2.0), plain, plain]
    rows = [engine.submit(Request(prompt, one)) for one in settings]
    engine.step()
    assert [row.slot is not None for row in rows] == [True, False, False, False]
    order = [event.id for event in engine.events() if isinstance(event, Finished)]
    assert order[:2] == [0, 1] and sorted(order[2:]) == [2, 3]
    with pytest.raises(ValueError, match="needs 2 slots of the cache, and there is room for 1"):
        Engine(cross.joint, cross.codec, slots=1).submit(Request(prompt, settings[1]))


def test_a_memory_budget_limits_the_slots(cross: Model) -> None:
    whole = Engine(cross.joint, cross.codec, slots=4)
    whole.run([Request(cross.codec.encode_prompt(QUESTION), GenerationSettings(max_new_tokens=4))])
    a_slot = whole.runner.cache.bytes // 4
    limited = Engine(cross.joint, cross.codec, slots=4, memory=2 * a_slot + 1)
    assert limited.runner.slots == 2
    with pytest.raises(ValueError, match=f"a slot of 96 tokens takes .*; {96 // 2} tokens would fit"):
        Engine(cross.joint, cross.codec, memory=a_slot // 2)


def test_a_long_prompt_is_read_in_chunks_while_others_write(cross: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jam.generation.engine.CHUNK", 5)
    engine = Engine(cross.joint, cross.codec, slots=4)
    settings = GenerationSettings(max_new_tokens=20, temperature=0.0, min_images=2)
    short = engine.submit(Request(cross.codec.encode_prompt("a"), settings))
    engine.step()
    long = engine.submit(Request(cross.codec.encode_prompt(3 * QUESTION), settings))
    engine.step()
    assert len(short.new_ids) == 2 and not long.new_ids
    list(engine.events())
    monkeypatch.undo()
    again = Engine(cross.joint, cross.codec).run([short.request, long.request])
    assert [row.result().new_ids for row in (short, long)] == [one.new_ids for one in again]


def test_the_unconditional_prompt_is_read_once_and_may_be_a_context(cross: Model) -> None:
    """Guided by a context that is the prompt itself, the picture is the unguided one."""
    v, engine = cross.codec.vocabulary, Engine(cross.joint, cross.codec, slots=2)
    prompt = cross.codec.encode_prompt(QUESTION)
    settings = GenerationSettings(max_new_tokens=5, temperature=0.0, guidance_scale=3.0)
    begun = [*prompt, v.break_id]
    same = engine.run([Request(begun, settings, unconditional=prompt)])[0]
    plain = engine.run([Request(begun, replace(settings, guidance_scale=1.0))])[0]
    assert same.new_ids == plain.new_ids
    row = engine.submit(Request(begun, replace(settings, max_new_tokens=20, min_images=2, max_images=2)))
    lengths = []
    while row.finish_reason is None:
        engine.step()
        lengths.append(engine.runner.lengths[1])
    assert row.images == 2 and engine.runner.lengths[1] == 0
    # Prefix and <break>, then one code a step; the next picture's codes follow the prefix that has stayed.
    begun = [place for place, length in enumerate(lengths) if length == 2 + 1]
    assert len(begun) == 2 and max(lengths) == 2 + 1 + 3 and 0 not in lengths[begun[0] : begun[1]]
