"""Towers have an attention of their own; that of other models of the process is the library's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AttentionInterface, LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from jam.models import CrossForCausalLM, SingleDecoder
from jam.models.towers import attention
from jam.packed import Packed
from support import joint_models
from support.joint_models import IMAGE_ROWS, IMAGE_SIZE, VOCABULARY, llama


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which function every attention layer has called; both are watched by their names in the library's table."""
    seen: list[str] = []

    def watched(name: str, function: Any) -> Any:
        return lambda *args, **kwargs: seen.append(name) or function(*args, **kwargs)

    table = AttentionInterface._global_mapping
    for name in ("sdpa", attention.NAME):
        monkeypatch.setitem(table, name, watched(name, table[name]))
    return seen


def test_the_librarys_function_is_its_own() -> None:
    assert AttentionInterface()["sdpa"] is sdpa_attention_forward


def test_towers_call_ours_and_plain_models_the_librarys(calls: list[str]) -> None:
    plain = llama(IMAGE_SIZE)
    ids, depth = torch.tensor([[2, 5, 6, 7]]), plain.config.num_hidden_layers
    with torch.no_grad():
        expected = plain(ids).logits
        assert calls == ["sdpa"] * depth
        joint_models.cross("llama").hidden(ids)
        assert calls == ["sdpa"] * depth + [attention.NAME] * 2 * depth
        del calls[:]
        assert torch.equal(plain(ids).logits, expected) and calls == ["sdpa"] * depth


def test_a_decoder_in_a_tower_is_still_a_whole_model(calls: list[str], tmp_path: Path) -> None:
    """The library makes its masks, also those of padded rows, and saves its config as before."""
    plain = llama(IMAGE_SIZE)
    ids, mask = torch.tensor([[2, 5, 6, 7], [0, 0, 2, 5]]), torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    config = plain.config.to_json_string()
    with torch.no_grad():
        expected = plain(ids, attention_mask=mask).logits
        single = SingleDecoder(plain, VOCABULARY, (2, 2), IMAGE_ROWS)
        assert torch.equal(single.model(ids, attention_mask=mask).logits, expected)
    assert attention.NAME in calls and plain.config.to_json_string() == config
    single.save_pretrained(tmp_path)
    assert attention.NAME not in (tmp_path / "config.json").read_text()
    del calls[:]
    with torch.no_grad():
        again = LlamaForCausalLM.from_pretrained(tmp_path)
        assert torch.equal(again(ids, attention_mask=mask).logits, expected) and attention.NAME not in calls


@pytest.mark.parametrize("options", [{}, {"attn_implementation": "sdpa"}])
def test_a_saved_cross_model_reads_packed_rows_again(options: dict[str, str], tmp_path: Path) -> None:
    model = joint_models.cross("llama", trained=True)
    model.save_pretrained(tmp_path)
    assert attention.NAME not in (tmp_path / "config.json").read_text()
    assert "attn_implementation" not in json.loads((tmp_path / "config.json").read_text())["text_config"]
    again = CrossForCausalLM.from_pretrained(tmp_path, **options).eval()
    ids, positions = torch.tensor([[2, 5, 6, 2, 7]]), torch.tensor([[0, 1, 2, 0, 1]])
    with torch.no_grad():
        packed = Packed.of(((3, 2),), 5)
        apart = [model.hidden(part) for part in ids.split([3, 2], dim=1)]
        torch.testing.assert_close(again.hidden(ids, positions, packed), torch.cat(apart, dim=1))
