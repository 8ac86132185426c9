"""The tables of docs/support.md say what is so: every family under every fusion, and every open pair."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import OPTConfig, OPTForCausalLM

import jam
from jam.codec.files import HOLDERS
from jam.fusion import fuse
from jam.models import CrossForCausalLM, SingleDecoder
from jam.models.towers import COMPOSITES, FAMILIES
from jam.models.towers.janus import DECODER
from support.families import CODES, CONFIGS, randomised
from support.fusion_parents import settings, tokenizer
from support.open_pairs import OPEN_PAIRS

SUPPORT = (Path(__file__).parents[2] / "docs" / "support.md").read_text()
METHODS = ("cross", "uniform", "width")
# One of `CONFIGS` for every family; two rows of image codes, which no table has names for, lie behind its text.
TINY = {
    "chameleon": "chameleon",
    "emu3": "emu3",
    "gemma": "gemma-one-key",
    "gemma2": "gemma2",
    "gemma3": "gemma3-composite",
    "janus": "janus",
    "llama": "llama-llama3",
    "mistral": "mistral-window",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
}


def rows_of(heading: str) -> list[list[str]]:
    """Cells of the table that begins with this heading."""
    table = SUPPORT[SUPPORT.index(f"| {heading} |") :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


FAMILY_ROWS = {row[0].split("`")[1]: row for row in rows_of("family")}


def test_the_table_lists_the_registered_families() -> None:
    decoders = {"emu3_text_model": "emu3", "gemma3_text": "gemma3", DECODER: "janus"}
    assert FAMILY_ROWS.keys() == {decoders.get(name, name) for name in FAMILIES} | COMPOSITES.keys()


def twin(family: str, rows: int) -> Any:
    if family == "opt":
        sizes = {"hidden_size": 8, "word_embed_proj_dim": 8, "ffn_dim": 12, "num_hidden_layers": 2}
        return OPTForCausalLM(OPTConfig(vocab_size=rows, num_attention_heads=2, max_position_embeddings=64, **sizes))
    model_class, make = CONFIGS[TINY[family]]
    config = make()
    if family == "chameleon":
        config.vocabulary_map = {"<image>": 3}
    if family == "emu3":
        config.vq_config.codebook_size, config.vq_config.sample_size = CODES, 4
    if family != "janus":  # whose codes have their own table
        config.get_text_config().vocab_size = rows
    return model_class(config)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", sorted(FAMILY_ROWS))
def test_a_family_is_fused_as_the_table_says(family: str, method: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    for role, rows in (("text", 60), ("image", 60 + CODES)):
        randomised(twin(family, rows)).save_pretrained(tmp_path / role)
        tokenizer().save_pretrained(tmp_path / role)
    cell = FAMILY_ROWS[family][1 + METHODS.index(method)]
    config = settings(tmp_path, method=method, image_start=None if family == "janus" else 60)
    image_tokenizer = None if family in HOLDERS else (CODES, (4, 4))
    if cell == "no":
        with pytest.raises(ValueError, match=r"--method (cross|uniform)"):
            fuse(config, image_tokenizer)
        return
    assert cell == "yes"
    plan = fuse(config, image_tokenizer)
    if method != "cross":
        opens = FAMILY_ROWS[family][4].strip("`")
        assert plan.architecture == opens
        _, found = getattr(transformers, opens).from_pretrained(tmp_path / "out", output_loading_info=True)
        assert not any(found.values()), found
    joint = jam.load(tmp_path / "out", device="cpu").joint
    assert isinstance(joint, CrossForCausalLM if method == "cross" else SingleDecoder)
    with torch.no_grad():
        ids = torch.tensor([[2, 5, 7, joint.vocabulary.break_id]])
        logits = joint.logits(joint.hidden(ids), torch.zeros_like(ids))
    assert logits[..., : joint.vocabulary.text_size].isfinite().all()


def test_the_table_lists_the_open_pairs() -> None:
    """With the kind of image tokenizer with which `test_open_pairs` draws."""
    listed = {row[0]: re.findall("`(.+?)`", row[1])[0] for row in rows_of("pair")}
    classes = {"VQModel": "VQModel", "janus_vqgan": "JanusVQVAE", "emu3_vqgan": "Emu3VQVAE"}
    classes["jam_chameleon_vqgan"] = "ChameleonVQGAN"
    expected = {name: classes[kind] for name, (_, kind) in OPEN_PAIRS.items() if name != "unequal shapes"}
    assert listed == expected
