"""Cross models of unlike families."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GemmaConfig, GemmaForCausalLM, JanusForConditionalGeneration

from jam.grammar import State
from jam.models import CrossConfig, CrossForCausalLM, SingleDecoder
from jam.vocabulary import Vocabulary
from support.families import CODES, SIZES, VOCABULARY, in_steps, janus, random_rows, randomised
from support.family_pairs import JOINT, OWN, PAIRS, ROWS, assert_exact, cross_of, qwen2, with_parents


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", PAIRS)
def test_step_0_equals_the_parents(name: str, tmp_path: Path) -> None:
    model, text, image = with_parents(name)
    assert_exact(model, text, image)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert isinstance(loaded, CrossForCausalLM)
    assert_exact(loaded, text, image)


@pytest.mark.parametrize("name", [*PAIRS, "paper"])
def test_cached_equals_uncached(name: str) -> None:
    """With cross blocks that do something; paper: two Gemmas under one embedding."""
    if name == "paper":
        gemma = GemmaForCausalLM(GemmaConfig(**SIZES, head_dim=8))
        model = randomised(cross_of(gemma, gemma, "paper"))
    else:
        model = randomised(cross_of(*PAIRS[name]()))
    rows = random_rows(VOCABULARY + CODES)
    with torch.no_grad():
        expected = [model.hidden(row[None])[0] for row in rows]
        got = in_steps(model.new_cache(3, 20), rows, model.hidden)
    for one, wanted in zip(got, expected, strict=True):
        torch.testing.assert_close(one, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["gemma2 llama", "gemma3 janus"])
def test_training_computes_the_same_logits(name: str) -> None:
    model = randomised(cross_of(*PAIRS[name]()))
    ids, states = torch.randint(VOCABULARY, (1, 9)), torch.tensor([[State.TEXT] * 4 + [State.IMAGE] * 5])
    with torch.no_grad():
        expected = model.logits(model.hidden(ids), states)
    logits = model.logits(model.hidden(ids), states)
    torch.testing.assert_close(logits, expected)
    logits[logits.isfinite()].square().sum().backward()
    assert model.text_tower.absent_input.grad is not None and model.to_text[0].k_proj.weight.grad.abs().max() > 0


def test_absent_rows_are_scaled_and_capped() -> None:
    """</s>, <break>, ... start as the mean row, and are read and written as the parent's rows are."""
    model, text, _ = with_parents("gemma2 llama")
    tower = model.text_tower
    with torch.no_grad():
        mean = text.get_input_embeddings().weight.mean(0)
        tower.absent_input.copy_(mean.expand_as(tower.absent_input))
        tower.absent_output.copy_(text.lm_head.weight.mean(0).expand_as(tower.absent_output))
        torch.testing.assert_close(tower.embed(torch.tensor([[JOINT.break_id]]))[0, 0], mean * 32**0.5)
        hidden = 100 * torch.randn(3, 32)
        logits = tower.columns(hidden, image=False)
    controls = logits[:, JOINT.control_start :]
    assert controls.abs().max() <= 2
    torch.testing.assert_close(controls, controls[:, :1].expand_as(controls))  # a product rounds equal rows unlike
    single = SingleDecoder(text, JOINT, [4, 4], ROWS[0]).eval()
    with torch.no_grad():
        embedded = text.get_input_embeddings()(torch.tensor([[2, 5]]))
        expected = text(inputs_embeds=torch.cat([embedded, (mean * 32**0.5)[None, None]], dim=1)).logits
        got = single.logits(single.hidden(torch.tensor([[2, 5, JOINT.break_id]])))
    torch.testing.assert_close(got[..., OWN], expected)


def test_mistakes_are_explained() -> None:
    text, image = qwen2(), JanusForConditionalGeneration(janus())
    with pytest.raises(ValueError, match=r"the image parent \(jam_janus\) writes image codes with a module.*'exact'"):
        cross_of(text, image, "paper")
    config = cross_of(text, image).config.to_dict()
    fewer = Vocabulary(VOCABULARY, CODES - 1, eos_id=2, sentinels=4)
    with pytest.raises(ValueError, match=r"jam_janus writes 16 codes, whose rows begin at 60; the vocabulary has 15"):
        CrossForCausalLM(CrossConfig(**config | {"vocabulary": fewer.to_dict()}))
