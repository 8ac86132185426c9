"""Attention over packed documents equals the dense mask's, forward and backward, in every tower."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from jam.models.towers import attention
from jam.packed import Packed
from support.families import CONFIGS, original, tower_of

ROWS = ((5, 1, 7), (16,), (3, 4, 9))
ALIKE = ((5, 5, 5), (4, 4, 4, 4), (4, 9, 3))  # runs of one length follow each other, across rows too


def states(heads: int, time: int = 16) -> torch.Tensor:
    return torch.randn(3, heads, time, 8, requires_grad=True)


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("keys", [4, 2])
@pytest.mark.parametrize("rows", [ROWS, ALIKE])
def test_runs_equal_the_dense_mask(window, keys, rows):
    torch.manual_seed(0)
    packed = Packed.of(rows, 16)
    packed = packed if window is None else packed.windowed(window)
    query, key, value = states(4), states(keys), states(keys)
    ours = attention.attend(query, key, value, packed)
    dense = F.scaled_dot_product_attention(query, key, value, attn_mask=packed.dense(), enable_gqa=True)
    real = torch.zeros(3, 16, dtype=torch.bool)
    for row, lengths in enumerate(rows):
        real[row, : sum(lengths)] = True
    assert_close(ours.transpose(1, 2)[real], dense.transpose(1, 2)[real])
    assert not ours.transpose(1, 2)[~real].any()
    weights = torch.randn_like(dense) * real[:, None, :, None]
    for one, other in zip(
        torch.autograd.grad((ours * weights).sum(), (query, key, value)),
        torch.autograd.grad((dense * weights).sum(), (query, key, value)),
        strict=True,
    ):
        assert_close(one, other)


def test_neighbours_of_one_length_are_one_call(monkeypatch):
    shapes = []

    def counted(query, *arguments, **options):
        shapes.append(tuple(query.shape))
        return attend(query, *arguments, **options)

    attend = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    query = states(4)
    attention.attend(query, query, query, Packed.of(ALIKE, 16))
    assert shapes == [(3, 4, 5, 8), (5, 4, 4, 8), (1, 4, 9, 8), (1, 4, 3, 8)]


def test_a_row_that_one_document_fills_is_plain_causal():
    packed = Packed.of(((16,), (16,)), 16)
    assert packed.is_causal and packed.windowed(16).is_causal and not packed.windowed(15).is_causal
    assert not Packed.of(((16,), (15,)), 16).is_causal
    query = states(2)[:2]
    plain = F.scaled_dot_product_attention(query, query, query, is_causal=True)
    assert torch.equal(attention.attend(query, query, query, packed), plain)


def test_compiled_layers_take_any_number_of_documents():
    """They are compiled once: each number of its own would be too many, and nothing compiled any more."""
    torch._dynamo.reset()
    compiled = torch.compile(attention.attend, backend="eager")
    query = states(2)
    for count in range(2, 15):
        row = (*[1] * (count - 1), 17 - count)
        packed = Packed.of((row, row, (9, 3)), 16)
        with torch._dynamo.config.patch(error_on_recompile=count > 2):
            ours = compiled(query, query, query, packed)
        assert_close(ours, attention.attend(query, query, query, packed))


@pytest.mark.parametrize("window", [None, 4])
def test_the_kernel_for_varying_lengths_is_given_the_runs(monkeypatch, window):
    """Where it is used: stands in for it what its documentation says it does, [tokens, heads, D]."""

    def varlen(query, key, value, ends_q, ends_k, max_q, max_k, *, scale, window_size, enable_gqa):
        assert enable_gqa and ends_q.dtype == torch.int32 and window_size[1] == 0 and max_q == max_k == 16
        left = window_size[0]
        out = []
        for start, end in zip(ends_q[:-1].tolist(), ends_k[1:].tolist(), strict=True):
            distance = torch.arange(end - start)[:, None] - torch.arange(end - start)
            seen = (distance >= 0) & ((distance <= left) | (left < 0))
            heads = (part[start:end].transpose(0, 1)[None] for part in (query, key, value))
            attended = F.scaled_dot_product_attention(*heads, attn_mask=seen, scale=scale, enable_gqa=True)
            out.append(attended[0].transpose(0, 1))
        return torch.cat(out)

    torch.manual_seed(0)
    packed = Packed.of(ROWS, 16)
    packed = packed if window is None else packed.windowed(window)
    query, key = states(4), states(2)
    runs = attention.attend(query, key, key, packed)
    monkeypatch.setattr(attention, "varlen_attn", varlen)
    monkeypatch.setattr(attention, "has_varlen", lambda query, dropout: True)
    kernel = attention.attend(query, key, key, packed)
    assert_close(kernel[1:], runs[1:])
    assert_close(kernel[0, :, :13], runs[0, :, :13])


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_towers_of_every_family(name):
    """Windows and eager families too: what a document's positions get is what the dense mask gives them."""
    tower = tower_of(original(name))
    packed = Packed.of(ROWS, 16)
    positions = torch.stack([torch.cat([torch.arange(n) for n in (*row, 16 - sum(row))]) for row in ROWS])
    embedded = tower.embedding(torch.randint(tower.embedding.num_embeddings, (3, 16)))
    with torch.no_grad():
        ours, dense = tower(embedded, positions, packed), tower(embedded, positions, packed.dense())
    for row, lengths in enumerate(ROWS):
        assert_close(ours[row, : sum(lengths)], dense[row, : sum(lengths)], rtol=1e-5, atol=1e-5)
