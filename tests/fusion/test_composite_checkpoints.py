"""Fusion from checkpoints that hold more than a decoder, and of families that not every method can fuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Emu3ForCausalLM,
    Emu3ForConditionalGeneration,
    Gemma3ForConditionalGeneration,
    JanusForConditionalGeneration,
    LlamaConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import jam
from jam.models import CrossForCausalLM, SingleDecoder
from jam.models.towers import decoder_config
from support.composites import COMPOSITES, run, save
from support.families import CODES, SIZES, VOCABULARY, decoder_tensors, emu3, gemma3, janus
from support.family_pairs import IMAGE_SIZES, assert_exact, gemma2, llama, wide_gemma3
from support.fusion_parents import TEXT_SIZE, opened


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", COMPOSITES)
def test_image_parent_within_a_composite(name: str, tmp_path: Path) -> None:
    text, image = save(tmp_path / "text", llama()), save(tmp_path / "image", COMPOSITES[name]())
    plan = run(tmp_path, every=1)
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.name for tensor in plan.tensors} == written.keys()
    assert not any(part in key for key in written for part in ("vqmodel", "vision_model", "vision_tower"))
    for key, tensor in decoder_tensors(image).items():
        if (stored := written.get(f"image_tower.model.{key}")) is not None:
            torch.testing.assert_close(stored, tensor, rtol=1e-6, atol=1e-6 if name.startswith("janus") else 0)
    fused = opened(tmp_path / "out")
    assert isinstance(fused, CrossForCausalLM)
    assert_exact(fused, text, image, TEXT_SIZE)
    config = json.loads((tmp_path / "out" / "config.json").read_text())["image_config"]
    assert config["model_type"] == decoder_config(image.config).model_type
    assert "vision_config" not in config and not config.get("vocabulary_map")


def test_text_parent_within_a_composite(tmp_path: Path) -> None:
    text = save(tmp_path / "text", Gemma3ForConditionalGeneration(gemma3(sliding_window=5)))
    image = save(tmp_path / "image", llama(**IMAGE_SIZES))
    run(tmp_path)
    assert_exact(opened(tmp_path / "out"), text, image, TEXT_SIZE)


def test_plan_of_a_composite_needs_no_weights(tmp_path: Path) -> None:
    for name, config in (("text", LlamaConfig(**SIZES)), ("image", janus())):
        config.save_pretrained(tmp_path / name)
    plan = run(tmp_path, plan=True)
    made = next(tensor for tensor in plan.tensors if tensor.name == "image_tower.model.model.embed_tokens.weight")
    assert made.shape == (VOCABULARY + CODES, 32) and len(made.sources) == 6
    assert made.operation == "text rows, then the aligner's outputs for all codes"


@pytest.mark.parametrize("older", [{"model.text_model.": "text_model.model.", "lm_head.": "text_model.lm_head."}, {}])
def test_names_of_other_versions(older: dict[str, str], tmp_path: Path) -> None:
    """Whatever the library writes today: files of the hub have the names of their day."""
    save(tmp_path / "text", llama())
    image = save(tmp_path / "image", COMPOSITES["emu3"]())
    tensors = {}
    for key, tensor in image.state_dict().items():
        for name, other in older.items():
            key = other + key.removeprefix(name) if key.startswith(name) else key
        tensors[key] = tensor
    save_file(tensors, tmp_path / "image" / "model.safetensors")
    run(tmp_path)
    written = load_file(tmp_path / "out" / "model.safetensors")
    for name in ("lm_head.weight", "model.norm.weight"):
        assert torch.equal(written[f"image_tower.model.{name}"], decoder_tensors(image)[name])


def test_janus_keeps_a_head_of_its_own_whatever_its_config_says(tmp_path: Path) -> None:
    save(tmp_path / "text", llama())
    save(tmp_path / "image", COMPOSITES["janus-tied"]())
    path = tmp_path / "image" / "model.safetensors"
    head = torch.randn(VOCABULARY, 32)
    save_file(load_file(path) | {"lm_head.weight": head}, path)
    run(tmp_path)
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(written["image_tower.model.lm_head.weight"], head)
    table = written["image_tower.model.model.embed_tokens.weight"]
    assert len(table) == VOCABULARY + CODES
    torch.testing.assert_close(written["image_tower.absent_output"][0], head[:TEXT_SIZE].mean(0))


def test_uniform_of_decoders_of_their_own_class(tmp_path: Path) -> None:
    vq = {"codebook_size": CODES, "sample_size": 4}
    for name, config in (("text", emu3(vq=vq)), ("image", emu3(vq=vq, vocab_size=VOCABULARY + CODES))):
        save(tmp_path / name, Emu3ForConditionalGeneration(config))
    run(tmp_path, method="uniform")
    loaded = jam.load(tmp_path / "out", device="cpu").joint
    assert isinstance(loaded, SingleDecoder) and isinstance(loaded.model, Emu3ForCausalLM)
    for name, vocabulary in (("text", VOCABULARY), ("image", VOCABULARY + CODES)):
        save(tmp_path / "gemma" / name, gemma2(vocab_size=vocabulary))
    run(tmp_path / "gemma", method="uniform")
    assert jam.load(tmp_path / "gemma" / "out", device="cpu").joint.config._attn_implementation == "eager"


# Errors


def save_twins(folder: Path, make: Any) -> None:
    for name, vocabulary in (("text", VOCABULARY), ("image", VOCABULARY + CODES)):
        save(folder / name, make(vocabulary))


def test_methods_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    cases: dict[str, tuple[str, Any, str]] = {
        "janus": (
            "uniform",
            lambda size: JanusForConditionalGeneration(janus()),
            "has no class for JanusDecoder.*--method cross",
        ),
        "qwen3": (
            "width",
            lambda size: Qwen3ForCausalLM(Qwen3Config(**SIZES | {"vocab_size": size}, head_dim=8)),
            r"q_norm.weight \[8\] is one for all of them.*--method uniform.*--method cross",
        ),
        "gemma3": (
            "width",
            lambda size: wide_gemma3(vocab_size=size),
            r"q_norm.weight \[20\] is one for all of them.*--method uniform.*--method cross",
        ),
    }
    for name, (method, make, message) in cases.items():
        save_twins(tmp_path / name, make)
        with pytest.raises(ValueError, match=message):
            run(tmp_path / name, method=method)


def test_a_tied_config_beside_a_head_that_differs_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "text", llama(tie_word_embeddings=True))
    save(tmp_path / "image", llama(**IMAGE_SIZES))
    path = tmp_path / "text" / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, path)
    run(tmp_path)  # the same table twice is tied all the same
    save_file(tensors | {"lm_head.weight": torch.randn(VOCABULARY, 32)}, path)
    with pytest.raises(ValueError, match=r"says tie_word_embeddings, but lm_head.* differ"):
        run(tmp_path, out=str(tmp_path / "other"))
