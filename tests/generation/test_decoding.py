"""Decoding: batches equal single runs, the cache equals none, guidance is eq. 6, pictures stay whole."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, OPTConfig, PretrainedConfig

from jam.generation import Engine, Generation, GenerationSettings
from jam.generation.guidance import guide
from jam.generation.sampling import Choices, draws, sample
from jam.grammar import Cursor, State
from jam.models import CrossConfig, CrossForCausalLM, JointModel, SingleDecoder
from jam.vocabulary import ParentRows, Vocabulary

V = Vocabulary(text_size=9, image_size=12, eos_id=2, sentinels=3)  # few text ids: <break> comes often
GRID = (2, 3)
CONTEXT = 64
BREAK, EOS, CODE = V.break_id, V.eos_id, V.image_start
TEXT_ROWS = ParentRows(text_size=V.text_size)
IMAGE_ROWS = ParentRows(
    V.text_size, image_start=V.image_start, control_start=V.control_start, control_size=V.control_size
)
PICTURE = [CODE + code for code in (3, 1, 4, 1, 5, 9)]

# Every mode and length: text, a picture just begun, a picture half done, behind a picture, a picture within.
PROMPTS = [
    [EOS, 4, 5, 6],
    [EOS, 7, BREAK],
    [EOS, 7, 3, 3, 1, BREAK, *PICTURE[:4]],
    [EOS, BREAK, *PICTURE],
    [EOS, 8, 8, BREAK, *PICTURE, BREAK, 1, 4, 4, 4, 0, 6],
]
SETTINGS = [
    GenerationSettings(max_new_tokens=40, guidance_scale=3.0, top_p=1.0, seed=1),
    GenerationSettings(max_new_tokens=40, guidance_scale=2.5, temperature=0.8, image_temperature=1.1, seed=2),
    GenerationSettings(max_new_tokens=40, guidance_scale=1.5, image_top_p=0.7, seed=3),
    GenerationSettings(max_new_tokens=40, temperature=0.0, guidance_scale=4.0),
    GenerationSettings(max_new_tokens=40, top_p=0.8, seed=5),
]


def parent_config(family: str, vocab_size: int) -> PretrainedConfig:
    sizes = {"vocab_size": vocab_size, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    if family == "llama":
        return LlamaConfig(**sizes, num_key_value_heads=2, intermediate_size=48, max_position_embeddings=CONTEXT)
    return OPTConfig(
        **sizes, ffn_dim=48, word_embed_proj_dim=32, max_position_embeddings=CONTEXT, enable_bias=False, dropout=0.0
    )


def make_model(kind: str) -> JointModel:
    """A model whose every weight matters, cross blocks included, and that likes to begin pictures."""
    torch.manual_seed(0)
    family, form = kind.split("-")
    image_config = parent_config(family, V.size)
    if form == "single":
        model = SingleDecoder(AutoModelForCausalLM.from_config(image_config), V, GRID, IMAGE_ROWS)
    else:
        model = CrossForCausalLM(
            CrossConfig(
                text_config=parent_config(family, V.text_size),
                image_config=image_config,
                vocabulary=V.to_dict(),
                image_grid=list(GRID),
                text_rows=asdict(TEXT_ROWS),
                image_rows=asdict(IMAGE_ROWS),
                cross_every=1,
                readout=form,
            )
        )
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.25)
    plain, liking = model.logits, torch.zeros(V.size)
    liking[BREAK], liking[EOS] = 2.0, -2.0
    model.logits = lambda hidden, states: plain(hidden, states) + liking
    return model.eval()


SELDOM = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("llama-exact", "opt-paper")]


@pytest.fixture(scope="module", params=["opt-exact", *SELDOM, "llama-paper", "opt-single"])
def model(request: pytest.FixtureRequest) -> JointModel:
    return make_model(request.param)


@pytest.fixture(scope="module")
def opt() -> JointModel:
    return make_model("opt-exact")


def plain_logits(model: JointModel, ids: list[int], state: State) -> torch.Tensor:
    """Logits [V] of the next token by one forward without a cache."""
    with torch.no_grad():
        return model.logits(model.hidden(torch.tensor([ids]))[:, -1], torch.tensor([state]))[0]


def plain_decoding(model: JointModel, prompt: list[int], settings: GenerationSettings) -> list[int]:
    """The definition: two plain forwards a token, no cache, no batch."""
    ids, cursor, uniforms = list(prompt), Cursor(model.grammar), draws(settings, settings.max_new_tokens)
    for token in prompt[1:]:
        cursor.feed(token)
    for step in range(min(settings.max_new_tokens, CONTEXT - len(prompt))):
        remaining = min(settings.max_new_tokens, CONTEXT - len(prompt)) - step
        image = cursor.state is State.IMAGE
        logits = plain_logits(model, ids, cursor.state)
        if image:
            unconditional = [EOS, V.sentinel_id(0), *ids[len(ids) - 1 - cursor.codes :]]
            assert unconditional[2] == BREAK
            free = plain_logits(model, unconditional, cursor.state)
            logits = free + settings.guidance_scale * (logits - free)
        allowed = model.grammar.allowed()[cursor.state].clone()
        allowed[V.sentinel_start :] = False
        if cursor.state is State.TEXT and remaining < 2 + model.grammar.image_tokens:
            allowed[BREAK] = False
        logits[~allowed] = -torch.inf
        token = int(sample(logits[None], Choices.of([settings], [image]), uniforms[step : step + 1]))
        ids.append(token)
        cursor.feed(token)
        if token == EOS:
            break
    return ids[len(prompt) :]


def assert_whole(model: JointModel, generation: Generation) -> None:
    """The document obeys the grammar, and if it ends by its budget then not within a picture."""
    ids = generation.prompt_ids + generation.new_ids
    states = model.grammar.states(ids)
    assert not any(V.is_sentinel(token) for token in generation.new_ids)
    cursor = Cursor(model.grammar)
    for token in ids[1:]:
        cursor.feed(token)
    assert cursor.state is not State.IMAGE
    assert sum(state is State.IMAGE for state in states) % model.grammar.image_tokens == 0


def choices(temperature: torch.Tensor, top_p: torch.Tensor) -> Choices:
    """Sampling by temperature and top-p alone."""
    none = torch.zeros(len(temperature))
    return Choices(temperature, top_p, none.long(), none)


# --- the engine against plain forwards --------------------------------------------------------------------------------


def test_a_batch_of_lengths_and_modes_equals_one_at_a_time(model: JointModel) -> None:
    engine = Engine(model)
    together = engine.run(PROMPTS, SETTINGS)
    alone = [engine.run([prompt], settings)[0] for prompt, settings in zip(PROMPTS, SETTINGS, strict=True)]
    for one, other in zip(together, alone, strict=True):
        assert one.new_ids == other.new_ids
        assert (one.finish_reason, one.images) == (other.finish_reason, other.images)
        torch.testing.assert_close(one.log_probs, other.log_probs, rtol=1e-5, atol=1e-5)
    assert sum(generation.images for generation in together) > len(PROMPTS)  # the test saw modes switch


def test_equals_decoding_by_plain_forwards_with_equation_6(model: JointModel) -> None:
    """Covers: cached = uncached, guidance = eq. 6 by two forwards, unguided rows in the same batch."""
    for generation, settings in zip(Engine(model).run(PROMPTS, SETTINGS), SETTINGS, strict=True):
        assert generation.new_ids == plain_decoding(model, generation.prompt_ids, settings)


def test_rescoring_in_one_forward_gives_the_same_log_probs(model: JointModel) -> None:
    for generation in Engine(model).run(PROMPTS, SETTINGS):
        ids = generation.prompt_ids + generation.new_ids
        states = torch.tensor([model.grammar.states(ids)[1:]])
        with torch.no_grad():
            logits = model.logits(model.hidden(torch.tensor([ids[:-1]])), states)[0]
        log_probs = logits.masked_fill(~model.grammar.allowed()[states[0]], -torch.inf).log_softmax(-1)
        chosen = log_probs[range(len(ids) - 1), ids[1:]][-len(generation.new_ids) :]
        torch.testing.assert_close(torch.tensor(generation.log_probs), chosen, rtol=1e-5, atol=1e-5)


def test_guidance_is_equation_6() -> None:
    conditional, unconditional = torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0, -1.0]])
    assert guide(conditional, unconditional, torch.tensor([3.5])).tolist() == [[2 + 3.5 * (1 - 2), -1 + 3.5 * (3 + 1)]]
    assert torch.equal(guide(conditional, unconditional, torch.ones(1)), conditional)


def test_one_forward_a_step_and_nothing_for_guidance_scale_1(opt: JointModel, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[tuple[int, int]] = []
    hidden = opt.hidden
    monkeypatch.setattr(opt, "hidden", lambda ids, *rest: batches.append(tuple(ids.shape)) or hidden(ids, *rest))
    steps: list[int] = []

    generation = Engine(opt).run([PROMPTS[1]], SETTINGS[4], on_step=lambda rows: steps.append(len(rows[0].new_ids)))[0]
    assert steps == list(range(1, len(generation.new_ids) + 1))
    assert batches == [(1, 2)] + [(1, 1)] * len(steps)  # the prompt but for its last id, then one a token

    batches.clear()
    generation = Engine(opt).run([PROMPTS[0]], SETTINGS[0])[0]
    assert batches[0] == (1, 3)
    pictures = generation.images
    assert pictures > 1 and batches[1:].count((1, 2)) == 1  # the unconditional prompt, which stays
    assert batches.count((2, 1)) == pictures * opt.grammar.image_tokens
    assert len(batches) == 2 + len(generation.new_ids)


# --- budgets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_new_tokens", range(1, 25))
def test_the_budget_never_cuts_an_image(opt: JointModel, max_new_tokens: int) -> None:
    prompts = [PROMPTS[0], PROMPTS[3], PROMPTS[4]]
    for generation in Engine(opt).run(prompts, GenerationSettings(max_new_tokens, top_p=1.0, guidance_scale=2.0)):
        assert_whole(opt, generation)
        assert len(generation.new_ids) <= max_new_tokens
        ended = generation.new_ids[-1] == EOS
        assert generation.finish_reason == ("end" if ended else "max_new_tokens")
        assert ended or len(generation.new_ids) == max_new_tokens


def test_the_context_ends_a_document_between_images(opt: JointModel) -> None:
    settings = [GenerationSettings(max_new_tokens=1000, top_p=1.0, seed=seed) for seed in range(12)]
    generations = Engine(opt).run([PROMPTS[0]] * len(settings), settings)
    assert {generation.finish_reason for generation in generations} == {"end", "context"}
    for generation in generations:
        assert_whole(opt, generation)
        full = len(generation.prompt_ids) + len(generation.new_ids) == CONTEXT
        assert full or generation.finish_reason == "end"


@pytest.mark.parametrize("max_images", [0, 1, 2])
def test_max_images(opt: JointModel, max_images: int) -> None:
    settings = [GenerationSettings(max_new_tokens=50, max_images=max_images, top_p=1.0, seed=seed) for seed in range(6)]
    generations = Engine(opt).run([PROMPTS[4]] * len(settings), settings)
    assert max(generation.images for generation in generations) == max_images
    for generation in generations:
        assert_whole(opt, generation)
        pictures = sum(V.is_image(token) for token in generation.new_ids)
        assert pictures == generation.images * opt.grammar.image_tokens


# --- seeds and sampling -----------------------------------------------------------------------------------------------


def test_seeds(opt: JointModel) -> None:
    engine, settings = Engine(opt), GenerationSettings(max_new_tokens=30, top_p=1.0, guidance_scale=2.0, seed=11)
    first = engine.run([PROMPTS[0]] * 3, settings)
    assert first == engine.run([PROMPTS[0]] * 3, settings)
    assert len({tuple(generation.new_ids) for generation in first}) == 3  # rows draw apart
    assert engine.run([PROMPTS[0]], settings)[0].new_ids == first[0].new_ids
    assert engine.run([PROMPTS[0]], settings.for_row(2))[0].new_ids == first[2].new_ids  # any of them alone
    assert engine.run([PROMPTS[0]], replace(settings, seed=12))[0].new_ids != first[0].new_ids


def test_a_larger_budget_continues_the_same_draws() -> None:
    settings = GenerationSettings(seed=7)
    assert torch.equal(draws(settings, 5), draws(settings, 500)[:5])


def test_sampling_follows_the_distribution() -> None:
    logits = torch.tensor([0.5, 0.05, 0.25, 0.15, 0.05]).log()
    logits = torch.cat([logits, torch.tensor([-torch.inf])])
    uniform = (torch.arange(1000) + 0.5) / 1000

    def shares(temperature: float, top_p: float) -> list[float]:
        full = torch.full((1000,), 1.0)
        drawn = sample(logits.expand(1000, -1), choices(full * temperature, full * top_p), uniform)
        return (drawn.bincount(minlength=6) / 1000).tolist()

    assert shares(1.0, 1.0) == pytest.approx([0.5, 0.05, 0.25, 0.15, 0.05, 0], abs=2e-3)
    assert shares(1.0, 0.7) == pytest.approx([2 / 3, 0, 1 / 3, 0, 0, 0], abs=2e-3)
    assert shares(1.0, 0.76) == pytest.approx([0.5 / 0.9, 0, 0.25 / 0.9, 0.15 / 0.9, 0, 0], abs=2e-3)
    assert shares(1.0, 1e-9) == shares(0.0, 1.0) == shares(1e-30, 1.0) == [1, 0, 0, 0, 0, 0]
    squares = torch.tensor([0.5, 0.05, 0.25, 0.15, 0.05, 0]).square()
    assert shares(0.5, 1.0) == pytest.approx((squares / squares.sum()).tolist(), abs=2e-3)


def test_sampling_never_takes_a_forbidden_id_at_the_ends_of_the_range() -> None:
    logits = torch.randn(64, 50, generator=torch.Generator().manual_seed(0))
    logits[:, :7] = logits[:, -7:] = -torch.inf
    for uniform in (0.0, 1 - 2**-24):
        for top_p in (0.5, 1.0):
            chosen = choices(torch.ones(64), torch.full((64,), top_p))
            drawn = sample(logits, chosen, torch.full((64,), uniform))
            assert ((drawn >= 7) & (drawn < 43)).all()


def test_rows_of_a_batch_are_sampled_apart() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, uniform = torch.randn(20, 300, generator=generator), torch.rand(20, generator=generator)
    temperature, top_p = torch.linspace(0, 2, 20), torch.linspace(0.3, 1.2, 20).clamp(max=1)
    together = sample(logits, choices(temperature, top_p), uniform)
    apart = [slice(i, i + 1) for i in range(20)]
    alone = [sample(logits[i], choices(temperature[i], top_p[i]), uniform[i]) for i in apart]
    assert torch.equal(together, torch.cat(alone))


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "settings", "message"),
    [
        ([], {}, "prompt is empty"),
        ([EOS] + [4] * CONTEXT, {}, f"{CONTEXT + 1} tokens and the model's context {CONTEXT}"),
        ([EOS] + [4] * (CONTEXT - 1), {}, f"{CONTEXT} tokens and the model's context {CONTEXT}"),
        ([4, 5], {}, "must begin with </s>"),
        ([EOS, 4, CODE], {}, "position 2: <image:0> may not come in state TEXT"),
        ([EOS, 4, EOS], {}, "closed by </s>"),
        ([EOS, 4, V.sentinel_id(0)], {}, "no gap is open"),
        ([EOS, 4, BREAK, *PICTURE[:2]], {"max_new_tokens": 4}, "needs 5 more tokens, and 4 are left"),
    ],
)
def test_prompts_that_cannot_be_continued(opt: JointModel, prompt: list[int], settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Engine(opt).run([prompt], GenerationSettings(**settings))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("max_images", -1),
        ("temperature", -0.1),
        ("image_temperature", float("nan")),
        ("top_p", 0.0),
        ("image_top_p", 1.5),
        ("guidance_scale", -1.0),
    ],
)
def test_settings_are_checked(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        GenerationSettings(**{name: value})


def test_settings_and_prompts_must_match(opt: JointModel) -> None:
    with pytest.raises(ValueError, match="2 prompts and 1 settings"):
        Engine(opt).run(PROMPTS[:2], SETTINGS[:1])
    assert Engine(opt).run([], GenerationSettings()) == []


def test_broken_weights_are_named() -> None:
    broken = make_model("opt-exact")
    with torch.no_grad():
        for parameter in broken.parameters():
            parameter.fill_(torch.nan)
    with pytest.raises(ValueError, match="nan"):
        Engine(broken).run([PROMPTS[0]], GenerationSettings())
