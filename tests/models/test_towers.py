"""Towers of every family against the original classes, uncached and cached."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GemmaConfig, GPT2Config, Qwen2Config

from jam.models import RowCache, Tower
from jam.models.cross_block import rotated
from jam.models.towers import COMPOSITES, FAMILIES, decoder_config
from jam.models.towers.masks import additive, windowed
from support.families import (
    CODES,
    CONFIGS,
    LENGTH,
    VOCABULARY,
    decoder_tensors,
    in_steps,
    original,
    random_rows,
    text_logits,
    tower_of,
)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def logits_of(tower: Tower, ids: Tensor, *arguments: Any) -> Tensor:
    positions, *others = arguments or (torch.arange(ids.shape[1])[None],)
    return tower.capped(tower.head(tower(tower.embedding(ids), positions, *others)))


def test_every_family_has_two_configs() -> None:
    types = [decoder_config(make()).model_type for _, make in CONFIGS.values()]
    assert all(types.count(name) >= 2 for name in FAMILIES if name != "opt")  # its own are in test_joint_models.py
    wholes = {make().model_type for _, make in CONFIGS.values()}
    assert wholes >= COMPOSITES.keys()


@pytest.mark.parametrize("name", CONFIGS)
def test_tower_equals_the_original_class(name: str) -> None:
    model = original(name)
    tower = tower_of(model)
    ids = torch.randint(VOCABULARY, (3, LENGTH))
    with torch.no_grad():
        assert (logits_of(tower, ids) - text_logits(model, ids)).abs().max() == 0
    assert not any(part in key for key in tower.state_dict() for part in ("vqmodel", "vision_model", "vision_tower"))


@pytest.mark.parametrize("name", [name for name, (_, make) in CONFIGS.items() if make().model_type not in COMPOSITES])
def test_tower_of_the_model_itself(name: str) -> None:
    model = original(name)
    ids = torch.randint(VOCABULARY, (2, LENGTH))
    with torch.no_grad():
        expected = model(ids).logits
        assert (logits_of(Tower(model), ids) - expected).abs().max() == 0


@pytest.mark.parametrize("name", CONFIGS)
def test_cached_equals_uncached(name: str) -> None:
    tower = tower_of(original(name))
    rows = random_rows(VOCABULARY)
    cache = RowCache(len(tower.layers), rows=3, max_length=20)
    with torch.no_grad():
        expected = [logits_of(tower, row[None])[0] for row in rows]
        got = in_steps(cache, rows, lambda ids, *others: logits_of(tower, ids, *others))
    for one, wanted in zip(got, expected, strict=True):
        torch.testing.assert_close(one, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_packed_equals_separate(name: str) -> None:
    tower = tower_of(original(name))
    documents = [torch.randint(VOCABULARY, (length,)) for length in (11, 8)]
    of = torch.arange(2).repeat_interleave(torch.tensor([11, 8]))
    positions = torch.cat([torch.arange(11), torch.arange(8)])[None]
    mask = (of[:, None] == of) & torch.ones(19, 19).tril().bool()
    with torch.no_grad():
        packed = logits_of(tower, torch.cat(documents)[None], positions, mask[None, None])
        separate = torch.cat([logits_of(tower, document[None])[0] for document in documents])
    torch.testing.assert_close(packed[0], separate, rtol=1e-5, atol=1e-5)


# Masks


@pytest.mark.parametrize("window", [1, 3, 6, 7])
@pytest.mark.parametrize("masked", [False, True])
def test_window_counts_positions(window: int, masked: bool) -> None:
    positions = torch.tensor([[0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 4, 5]])
    mask = (torch.rand(2, 1, 6, 6) < 0.7).tril() if masked else None
    got = windowed(mask, positions, window, cached=False)
    visible = mask if mask is not None else torch.ones(2, 1, 6, 6).tril().bool()
    got = visible if got is None else got.expand(2, 1, 6, 6)
    for row, query, key in torch.cartesian_prod(torch.arange(2), torch.arange(6), torch.arange(6)).tolist():
        near = positions[row, query] - positions[row, key] < window
        assert got[row, 0, query, key] == (visible[row, 0, query, key] and near), (row, query, key)


def test_window_counts_slots_of_a_cache() -> None:
    cache = RowCache(1, rows=2, max_length=12)
    cache.step(torch.tensor([7, 1]))
    cache.advance()
    positions, mask = cache.step(torch.tensor([1, 3]))
    narrow = windowed(mask, positions, 3, cached=True)
    assert narrow is not None
    seen = [[row.nonzero()[:, 0].tolist() for row in rows[0]] for rows in narrow]
    assert seen[0][0] == [5, 6, 7] and seen[1] == [[0, 1], [0, 1, 2], [1, 2, 3]]
    assert all(seen[0])  # padding sees something, so that nothing is nan


def test_additive_masks_are_those_of_eager_attention() -> None:
    hidden = torch.zeros(1, 2, 4, dtype=torch.bfloat16)
    lowest = torch.finfo(torch.bfloat16).min
    for mask in (None, torch.tensor([[[[True, False], [True, True]]]])):
        numbers = additive(mask, hidden)
        assert numbers.dtype is torch.bfloat16 and numbers.tolist() == [[[[0, lowest], [0, 0]]]]


def test_partial_rotary_turns_the_first_dims() -> None:
    query, key = torch.randn(2, 1, 3, 5, 8).unbind()
    angles = torch.randn(1, 5, 2).repeat(1, 1, 2)
    turned = rotated(query, key, angles.cos(), angles.sin())
    for old, new in zip((query, key), turned, strict=True):
        assert torch.equal(new[..., 4:], old[..., 4:])
        torch.testing.assert_close(new[..., :4].norm(dim=-1), old[..., :4].norm(dim=-1))
        first = old[..., 0] * angles[..., 0].cos() - old[..., 2] * angles[..., 0].sin()
        torch.testing.assert_close(new[..., 0], first)


# Single families


@pytest.mark.parametrize("name", ["chameleon", "chameleon-swin"])
def test_chameleon_overwrites_image_logits_and_the_tower_does_not(name: str) -> None:
    model, ids = original(name), torch.randint(VOCABULARY, (1, LENGTH))
    with torch.no_grad():
        theirs, ours = model(ids).logits, logits_of(tower_of(model), ids)
    assert (theirs[..., 4:12] == torch.finfo(torch.float32).min).all()
    others = [*range(4), *range(12, VOCABULARY)]
    assert torch.equal(ours[..., others], theirs[..., others])
    assert ours[..., 4:12].abs().max() < 100


@pytest.mark.parametrize("name", ["janus", "janus-tied"])
def test_janus_reads_and_writes_codes(name: str) -> None:
    model = original(name)
    tower = tower_of(model)
    text, codes = torch.randint(VOCABULARY, (1, 6)), torch.randint(CODES, (1, 5))
    with torch.no_grad():
        rows = model.prepare_embeddings_for_image_generation(codes)
        embedded = torch.cat([model.get_input_embeddings()(text), rows], dim=1)
        states = model.model.language_model(inputs_embeds=embedded).last_hidden_state
        hidden = tower(tower.embedding(torch.cat([text, codes + VOCABULARY], dim=1)), torch.arange(11)[None])
        assert tower.image_head is not None
        # The aligner's products are made for all codes at once: another shape, and with it another order of sums.
        torch.testing.assert_close(hidden, states, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(tower.image_head(hidden), model.model.generation_head(states), rtol=1e-5, atol=1e-5)
        assert torch.equal(tower.head.weight, model.lm_head.weight)


def test_gemma_scales_rows_as_its_embedding_does() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        for name in ("gemma", "gemma2", "gemma3"):
            tower = tower_of(original(name)).to(dtype)
            ids = torch.arange(VOCABULARY)
            assert torch.equal(tower.scaled(tower.embedding.weight), tower.embedding(ids))


def test_caps_and_windows_are_no_accident() -> None:
    """Without them the same weights give other logits."""
    ids = torch.randint(VOCABULARY, (1, LENGTH))
    local = {"rope_type": "default", "rope_theta": 10.0}
    changed: dict[str, dict[str, Any]] = {
        "gemma2": {"attn_logit_softcapping": None},
        "qwen2-window": {"layer_types": ["full_attention"] * 3},
        "gemma3": {"rope_parameters": {"full_attention": local, "sliding_attention": local}},
    }
    for name, changes in changed.items():
        model = original(name)
        config = copy.deepcopy(model.config)
        for key, value in changes.items():
            setattr(config, key, value)
        other = Tower(config)
        other.model.load_state_dict(decoder_tensors(model))
        with torch.no_grad():
            assert (logits_of(other.eval(), ids) - text_logits(model, ids)).abs().max() > 1e-3, name


# Errors


def test_mistakes_are_explained() -> None:
    with pytest.raises(ValueError, match=r"'gpt2'; there are towers for: chameleon, emu3, .*qwen3; docs/new-family.md"):
        Tower(GPT2Config(n_layer=1))
    with pytest.raises(ValueError, match="of a Emu3ForCausalLM or a config, not of a Emu3ForConditionalGeneration"):
        Tower(original("emu3"))
    with pytest.raises(ValueError, match=r"'sdpa' is not supported: towers of gemma2 .*attn_implementation='eager'"):
        config = copy.deepcopy(original("gemma2").config)
        config._attn_implementation = "sdpa"
        Tower(config)
    with pytest.raises(ValueError, match="this gemma has use_bidirectional_attention"):
        Tower(GemmaConfig(use_bidirectional_attention=True))
    with pytest.raises(ValueError, match=r"are \['sliding_attention'\] with sliding_window None"):
        Tower(Qwen2Config(num_hidden_layers=2, layer_types=["sliding_attention"] * 2))
    with pytest.raises(ValueError, match="this Janus is no Llama but a qwen2"):
        config = original("janus").config
        config.text_config = CONFIGS["qwen2"][1]()
        decoder_config(config)
