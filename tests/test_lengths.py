"""Rotary positions that depend on a sequence's length ("longrope", "dynamic"): each sequence has those of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from families import SIZES, UNTIED, WHOLE, WINDOW
from transformers import (
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


def test_a_batch_equals_its_rows_alone(make: Callable[[], PreTrainedModel]) -> None:
    """With a cache that pads rows: none has the factors of the longest, nor those of its own padding."""
    tower, rows = Tower(make()), documents(5, 20, 3, 9)
    cache = RowCache(len(tower.layers), rows=4, max_length=24)
    ids = torch.zeros(4, 20, dtype=torch.long)
    for row, document in zip(ids, rows, strict=True):
        row[: len(document)] = document
    found = logits(tower, ids, *cache.step(torch.tensor([len(row) for row in rows])), cache)
    cache.advance()
    for row, document in enumerate(rows):
        alone = RowCache(len(tower.layers), rows=1, max_length=24)
        wanted = logits(tower, document[None], *alone.step(torch.tensor([len(document)])), alone)[0]
        torch.testing.assert_close(found[row, : len(document)], wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(wanted, expected(make, document), rtol=1e-5, atol=1e-5)


def test_the_rotary_of_a_batch_is_that_of_its_rows_to_the_last_bit(make: Callable[[], PreTrainedModel]) -> None:
    tower = Tower(make())
    family, model, hidden = tower.family, tower.model, torch.zeros(1)
    for old in ([0, 0, 0], [2, 7, 12]):  # all at once, and one token each at its own place
        counts = [4, 9, 20] if old[1] == 0 else [1, 1, 1]
        cache = RowCache(1, rows=3, max_length=40)
        for row, length in enumerate(old):
            cache.set_length(row, length)
        positions, _ = cache.step(torch.tensor(counts))
        together = family.rotary(model, hidden, positions, cache)
        for row, count in enumerate(counts):
            own = positions[row : row + 1, :count]
            for kind, pair in family.rotary(model, hidden, own, None).items():
                for ours, alone in zip(together[kind], pair, strict=True):
                    assert torch.equal(ours[row, :count], alone[0])


def test_packed_documents_have_their_own_lengths(make: Callable[[], PreTrainedModel]) -> None:
    tower, packed = Tower(make()), documents(5, 12, 8)
    positions = torch.cat([torch.arange(len(document)) for document in packed])[None]
    found = logits(tower, torch.cat(packed)[None], positions, Packed.of(((5, 12, 8),), 25))[0]
    for document, part in zip(packed, found.split([5, 12, 8]), strict=True):
        torch.testing.assert_close(part, expected(make, document), rtol=1e-5, atol=1e-5)
