"""Rotary positions that depend on a sequence's length ("longrope", "dynamic"): each sequence has those of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    DynamicCache,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from jam.models import RowCache
from jam.models.towers import Tower
from jam.packed import Packed
from support.families import SIZES, UNTIED, WHOLE, WINDOW
from support.fusion_parents import TEXT_SIZE, llama_config, opened, run, save_pair

LIMIT, VOCABULARY = 8, SIZES["vocab_size"]
LONG = {
    "rope_type": "longrope",
    "rope_theta": 100.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 3.0, 5.0, 9.0],
    "original_max_position_embeddings": LIMIT,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0}
SHORT = {"max_position_embeddings": LIMIT}


def llama(rope: dict[str, Any], **changes: Any) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**SIZES | UNTIED | {"head_dim": 8} | changes, rope_parameters=dict(rope)))


def gemma3() -> PreTrainedModel:
    """Windows keep the plain positions."""
    rope = {WHOLE: dict(LONG), WINDOW: {"rope_type": "default", "rope_theta": 10.0}}
    changes = {"head_dim": 8, "query_pre_attn_scalar": 8, "pad_token_id": 0, "sliding_window": 5}
    sizes = SIZES | changes | {"layer_types": [WINDOW, WHOLE], "num_hidden_layers": 2}
    return Gemma3ForCausalLM(Gemma3TextConfig(**sizes, rope_parameters=rope))


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama longrope": lambda: llama(LONG, max_position_embeddings=32),
    "llama dynamic": lambda: llama(DYNAMIC, **SHORT),
    "qwen2 dynamic": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SIZES | UNTIED | {"head_dim": 8} | SHORT, rope_parameters=dict(DYNAMIC))
    ),
    "gemma3 longrope": gemma3,
}


@pytest.fixture(params=MODELS)
def make(request: pytest.FixtureRequest) -> Callable[[], PreTrainedModel]:
    """Equal models, each of which has seen no sequence yet: `transformers` keeps the longest in its modules."""

    def made() -> PreTrainedModel:
        torch.manual_seed(0)
        model = MODELS[request.param]().eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
        return model

    return made


def logits(tower: Tower, ids: torch.Tensor, *others: Any) -> torch.Tensor:
    positions = others[0] if others else torch.arange(ids.shape[1])[None]
    with torch.no_grad():
        return tower.head(tower(tower.embedding(ids), positions, *others[1:]))


def documents(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(VOCABULARY, (length,), generator=generator) for length in lengths]


def expected(make: Callable[[], PreTrainedModel], ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return make()(ids[None]).logits[0]


@pytest.mark.parametrize("length", [1, LIMIT - 1, LIMIT, LIMIT + 1, 20])
def test_alone_it_is_what_transformers_says(make: Callable[[], PreTrainedModel], length: int) -> None:
    """And what the tower saw before changes nothing."""
    tower, (before, ids) = Tower(make()), documents(30, length)
    logits(tower, before[None])
    assert torch.equal(logits(tower, ids[None])[0], expected(make, ids))


def one_by_one(make: Callable[[], PreTrainedModel], ids: torch.Tensor) -> torch.Tensor:
    """The logits of `transformers` with its own cache."""
    model, past, found = make(), DynamicCache(), []
    with torch.no_grad():
        for token in ids:
            found.append(model(token[None, None], past_key_values=past, use_cache=True).logits[0, 0])
    return torch.stack(found)


@pytest.mark.parametrize("pieces", [(20,), (3, 17), (7, 2, 11), (1,) * 20])
def test_a_batch_in_a_cache_equals_its_rows_alone(make: Callable[[], PreTrainedModel], pieces: tuple[int, ...]) -> None:
    """In whatever pieces they are read, with padding: none has the factors of the longest, or of what came later."""
    tower, rows = Tower(make()), documents(5, 20, 3, 9)
    cache, found, start = RowCache(len(tower.layers), rows=4, max_length=24), [[], [], [], []], 0
    for size in pieces:
        parts = [row[start : start + size] for row in rows]
        ids = pad_sequence(parts, batch_first=True)
        made = logits(tower, ids, *cache.step(torch.tensor([len(part) for part in parts])), cache)
        cache.advance()
        for row, part in enumerate(parts):
            found[row].append(made[row, : len(part)])
        start += size
    for got, document in zip(found, rows, strict=True):
        torch.testing.assert_close(torch.cat(got), one_by_one(make, document), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("old", [[0, 0, 0], [2, 7, 12]])
def test_the_rotary_of_a_batch_is_that_of_its_rows_to_the_last_bit(
    make: Callable[[], PreTrainedModel], old: list[int]
) -> None:
    """All at once, with padding, and one token each at its own place."""
    tower, hidden, counts = Tower(make()), torch.zeros(1), [4, 9, 20] if old[1] == 0 else [1, 1, 1]
    found = []
    for rows in ([0, 1, 2], [0], [1], [2]):
        cache = RowCache(1, rows=len(rows), max_length=40)
        for place, row in enumerate(rows):
            cache.set_length(place, old[row])
        positions, _ = cache.step(torch.tensor([counts[row] for row in rows]))
        found.append(tower.family.rotary(tower.model, hidden, positions, cache))
    together, *alone = found
    for row, own in enumerate(alone):
        for kind, pair in own.items():
            for ours, one in zip(together[kind], pair, strict=True):
                assert torch.equal(ours[row, : counts[row]], one[0])


def test_rows_without_a_cache_have_their_own_lengths(make: Callable[[], PreTrainedModel]) -> None:
    """Rows of one batch may be of one document or of several."""
    tower, rows = Tower(make()), documents(20, 5, 9, 6)
    positions = torch.stack([torch.arange(20), torch.cat([torch.arange(len(row)) for row in rows[1:]])])
    ids = torch.stack([rows[0], torch.cat(rows[1:])])
    found = logits(tower, ids, positions, Packed.of(((20,), (5, 9, 6)), 20))
    for part, document in zip([found[0], *found[1].split([5, 9, 6])], rows, strict=True):
        torch.testing.assert_close(part, expected(make, document), rtol=1e-5, atol=1e-5)


def test_packed_documents_have_their_own_lengths(make: Callable[[], PreTrainedModel]) -> None:
    tower, packed = Tower(make()), documents(5, 12, 8)
    positions = torch.cat([torch.arange(len(document)) for document in packed])[None]
    found = logits(tower, torch.cat(packed)[None], positions, Packed.of(((5, 12, 8),), 25))[0]
    for document, part in zip(packed, found.split([5, 12, 8]), strict=True):
        torch.testing.assert_close(part, expected(make, document), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rope", [LONG, DYNAMIC], ids=["longrope", "dynamic"])
def test_a_fused_folder_that_is_loaded_has_them_too(tmp_path: Path, rope: dict[str, Any]) -> None:
    """Buffers that no file holds are made anew when the folder is opened."""
    narrow = {name: value[:2] for name, value in rope.items() if name.endswith("_factor")}
    save_pair(tmp_path, llama_config, rope_parameters=rope | narrow)
    run(tmp_path)
    model, ids = opened(tmp_path / "out").eval(), torch.randint(3, TEXT_SIZE, (1, 16))
    begin = model.vocabulary.begin_ids
    ids[0, : len(begin)] = torch.tensor(begin)
    parent = LlamaForCausalLM.from_pretrained(tmp_path / "text").eval()
    with torch.no_grad():
        found, wanted = model(ids).logits, parent(ids).logits
    assert torch.equal(found[..., :TEXT_SIZE], wanted)
