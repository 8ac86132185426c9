"""Joint models fed in pieces, packed, or as single streams: the same numbers as a whole document alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaForCausalLM,
)

from jam.models import CrossForCausalLM, JointModel, SingleDecoder
from jam.models.cross import target_states
from support.joint_models import (
    DOCUMENT,
    IMAGE_ROWS,
    IMAGE_SIZE,
    TEXT_DOCUMENT,
    TEXT_ROWS,
    TEXT_SIZE,
    VOCABULARY,
    B,
    cross,
    llama,
    opt,
)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


# Cache and packing


def make(kind: str) -> CrossForCausalLM | SingleDecoder:
    if kind.startswith("single"):
        parent = (opt if kind.endswith("opt") else llama)(IMAGE_SIZE)
        return SingleDecoder(parent, VOCABULARY, [2, 2], IMAGE_ROWS).eval()
    name, readout, every = kind.split()
    return cross(name, int(every), readout, trained=True)


KINDS = [
    f"{name} {readout} {every}" for name in ("opt", "llama") for readout in ("exact", "paper") for every in (1, 2, 4, 0)
]
KINDS += ["unequal exact 1", "single opt", "single llama"]


@pytest.mark.parametrize("kind", KINDS)
def test_cached_equals_uncached(kind: str) -> None:
    """Rows of different lengths: prompts at once, then more tokens of some rows, then single tokens."""
    model = make(kind)
    assert isinstance(model, JointModel)
    rows = [DOCUMENT, DOCUMENT[:5] + DOCUMENT[13:17] + [B, 9, 9, 9], TEXT_DOCUMENT]
    cache = model.new_cache(rows=3, max_length=20)
    forwards = [([4, 7, 1], [0, 1, 2]), ([1, 2], [2, 0]), ([1, 1, 1], [0, 1, 2]), ([3, 1], [0, 1]), ([1], [2])]
    with torch.no_grad():
        expected = [model.hidden(torch.tensor([row]))[0] for row in rows]
        lengths = [0, 0, 0]
        for counts, active in forwards:
            positions, mask = cache.step(torch.tensor(counts), torch.tensor(active))
            ids = torch.zeros(positions.shape, dtype=torch.long)
            for index, (count, row) in enumerate(zip(counts, active, strict=True)):
                ids[index, :count] = torch.tensor(rows[row][lengths[row] : lengths[row] + count])
            hidden = model.hidden(ids, positions, mask, cache)
            cache.advance()
            for index, (count, row) in enumerate(zip(counts, active, strict=True)):
                wanted = expected[row][lengths[row] : lengths[row] + count]
                torch.testing.assert_close(hidden[index, :count], wanted, rtol=1e-5, atol=1e-5)
                lengths[row] += count
    assert cache.lengths.tolist() == lengths


def test_forward_with_a_cache_steps_it() -> None:
    model = cross(trained=True)
    ids = torch.tensor([DOCUMENT])
    states = target_states(model.grammar, ids)
    cache = model.new_cache(1, 20)
    with torch.no_grad():
        expected = model(ids).logits
        parts = [
            model(ids[:, part], states=states[:, part], past_key_values=cache).logits
            for part in (slice(0, 6), slice(6, 7), slice(7, None))
        ]
    torch.testing.assert_close(torch.cat(parts, dim=1), expected)
    assert cache.lengths.tolist() == [len(DOCUMENT)]


@pytest.mark.parametrize("kind", KINDS)
def test_packed_documents_equal_separate_ones(kind: str) -> None:
    model = make(kind)
    documents = [TEXT_DOCUMENT, DOCUMENT]
    ids = torch.tensor([TEXT_DOCUMENT + DOCUMENT])
    lengths = torch.tensor([len(document) for document in documents])
    document_of = torch.arange(2).repeat_interleave(lengths)
    positions = torch.cat([torch.arange(int(length)) for length in lengths])[None]
    mask = (document_of[:, None] == document_of) & torch.ones(ids.shape[1], ids.shape[1]).tril().bool()
    with torch.no_grad():
        packed = model.hidden(ids, positions, mask[None, None])
        separate = [model.hidden(torch.tensor([document]))[0] for document in documents]
    torch.testing.assert_close(packed[0], torch.cat(separate), rtol=1e-5, atol=1e-5)


# Single streams


def test_single_stream_speaks_joint_ids(tmp_path: Path) -> None:
    parent = llama(IMAGE_SIZE)
    model = SingleDecoder(parent, VOCABULARY, [2, 2], IMAGE_ROWS)
    ids = torch.tensor([DOCUMENT])
    row_of = torch.tensor(IMAGE_ROWS.row_of(VOCABULARY))
    with torch.no_grad():
        logits = model.logits(model.hidden(ids))
        expected = parent(row_of[ids]).logits
    has_row = row_of >= 0
    assert torch.equal(logits[..., has_row], expected[..., row_of[has_row]])
    assert logits[..., ~has_row].isneginf().all()
    model.save_pretrained(tmp_path)
    assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path), LlamaForCausalLM)


def test_single_stream_reads_absent_ids_as_the_mean_row() -> None:
    parent = opt(TEXT_SIZE)
    model = SingleDecoder(parent, VOCABULARY, [2, 2], TEXT_ROWS)
    embeddings = parent.get_input_embeddings().weight[torch.tensor(TEXT_DOCUMENT)]
    embeddings = torch.cat([embeddings, parent.get_input_embeddings().weight.mean(0, keepdim=True)])
    with torch.no_grad():
        logits = model.logits(model.hidden(torch.tensor([[*TEXT_DOCUMENT, B]])))
        expected = parent(inputs_embeds=embeddings[None]).logits
    torch.testing.assert_close(logits[..., :TEXT_SIZE], expected)
    assert logits[..., TEXT_SIZE:].isneginf().all()


# Errors
