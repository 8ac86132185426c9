"""Cross models of unlike families, and fusion from checkpoints that hold more than a decoder."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from families import (
    CODES,
    LINEAR,
    SIZES,
    VOCABULARY,
    WHOLE,
    WINDOW,
    chameleon,
    decoder_tensors,
    emu3,
    gemma3,
    in_steps,
    janus,
    random_rows,
    randomised,
    text_logits,
)
from fusion_parents import QUIET, TEXT_SIZE, opened, settings, tokenizer
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    ChameleonForConditionalGeneration,
    Emu3ForCausalLM,
    Emu3ForConditionalGeneration,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    JanusForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import jam
from jam.fusion import FusionPlan, fuse
from jam.grammar import State
from jam.models import CrossConfig, CrossForCausalLM, SingleStream
from jam.models.towers import decoder_config
from jam.vocabulary import ParentRows, Vocabulary

IMAGE_SIZES = SIZES | {"vocab_size": VOCABULARY + CODES}
JOINT = Vocabulary(text_size=VOCABULARY, image_size=CODES, eos_id=2, sentinels=4)
ROWS = ParentRows(VOCABULARY), ParentRows(VOCABULARY, VOCABULARY)
OWN, OWN_CODES = slice(0, VOCABULARY), slice(VOCABULARY, VOCABULARY + CODES)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def qwen2(**changes: Any) -> Any:
    window = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 2}
    return Qwen2ForCausalLM(Qwen2Config(**SIZES | window | {"num_hidden_layers": 4} | changes))


def wide_gemma3(**changes: Any) -> Any:
    sizes = IMAGE_SIZES | {"hidden_size": 48, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 20}
    rope = {WHOLE: LINEAR, WINDOW: {"rope_type": "default", "rope_theta": 10.0}}
    windows = {"sliding_window": 5, "layer_types": [WINDOW, WHOLE, WINDOW], "rope_parameters": rope}
    return Gemma3ForCausalLM(Gemma3TextConfig(**sizes | windows | {"final_logit_softcapping": 2.0} | changes))


def gemma2(**changes: Any) -> Any:
    caps = {"head_dim": 8, "sliding_window": 5, "attn_logit_softcapping": 1.5, "final_logit_softcapping": 2.0}
    return Gemma2ForCausalLM(Gemma2Config(**SIZES | caps | {"attn_implementation": "eager"} | changes))


def llama_with_codes() -> Any:
    return LlamaForCausalLM(LlamaConfig(**IMAGE_SIZES))


PAIRS: dict[str, Any] = {
    "qwen2 gemma3": lambda: (qwen2(), wide_gemma3()),
    "gemma2 llama": lambda: (gemma2(), llama_with_codes()),
    "qwen2 chameleon": lambda: (
        qwen2(),
        ChameleonForConditionalGeneration(chameleon(vocab_size=VOCABULARY + CODES, swin_norm=True)),
    ),
    "gemma3 janus": lambda: (wide_gemma3(vocab_size=VOCABULARY), JanusForConditionalGeneration(janus())),
}


def cross_of(text: Any, image: Any, readout: str = "exact") -> CrossForCausalLM:
    config = CrossConfig(
        text_config=text.config,
        image_config=image.config,
        vocabulary=JOINT.to_dict(),
        image_grid=[4, 4],
        text_rows=asdict(ROWS[0]),
        image_rows=asdict(ROWS[1]),
        cross_every=1,
        readout=readout,
    )
    return CrossForCausalLM(config).eval()


def with_parents(name: str) -> tuple[CrossForCausalLM, Any, Any]:
    text, image = (randomised(model) for model in PAIRS[name]())
    model = cross_of(text, image)
    model.text_tower.model.load_state_dict(decoder_tensors(text))
    model.image_tower.model.load_state_dict(decoder_tensors(image))
    return model, text, image


def image_logits(model: Any, rows: Tensor) -> Tensor:
    """Logits [B, T, codes] of an image parent, whose codes are the rows behind those of the text."""
    if not isinstance(model, JanusForConditionalGeneration):
        return text_logits(model, rows)[..., OWN_CODES]
    texts = model.get_input_embeddings()(rows.clamp(max=VOCABULARY - 1))
    codes = model.prepare_embeddings_for_image_generation((rows - VOCABULARY).clamp(min=0))
    embedded = torch.where((rows < VOCABULARY)[..., None], texts, codes)
    return model.model.generation_head(model.model.language_model(inputs_embeds=embedded).last_hidden_state)


def assert_exact(fused: CrossForCausalLM, text: Any, image: Any, text_size: int = VOCABULARY) -> None:
    """Difference 0; with Janus the rows of the codes are made in another order of sums."""
    written = fused.config.joint_vocabulary
    ids = torch.tensor([[2, 5, 3, 7, 11, 4, 9, 1, 6, 8, 10, 3]])
    with torch.no_grad():
        got = fused.logits(fused.hidden(ids), torch.full(ids.shape, State.TEXT))[..., :text_size]
        assert (got - text_logits(text, ids)[..., :text_size]).abs().max() == 0
        codes = torch.tensor([[2, 5, 3, *range(VOCABULARY, VOCABULARY + 9)]])
        joint = torch.where(codes >= VOCABULARY, codes - VOCABULARY + written.image_start, codes)
        got = fused.logits(fused.hidden(joint), torch.full(ids.shape, State.IMAGE))
        got = got[..., written.image_start : written.control_start]
        difference = (got - image_logits(image, codes)).abs().max()
        assert difference <= (1e-5 if isinstance(image, JanusForConditionalGeneration) else 0)


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
    assert controls.abs().max() <= 2 and (controls == controls[:, :1]).all()
    single = SingleStream(text, JOINT, [4, 4], ROWS[0]).eval()
    with torch.no_grad():
        embedded = text.get_input_embeddings()(torch.tensor([[2, 5]]))
        expected = text(inputs_embeds=torch.cat([embedded, (mean * 32**0.5)[None, None]], dim=1)).logits
        got = single.logits(single.hidden(torch.tensor([[2, 5, JOINT.break_id]])))
    torch.testing.assert_close(got[..., OWN], expected)


# Fusion from files

COMPOSITES: dict[str, Any] = {
    "emu3": lambda: Emu3ForConditionalGeneration(emu3(vocab_size=VOCABULARY + CODES)),
    "emu3-tied": lambda: Emu3ForConditionalGeneration(emu3(vocab_size=VOCABULARY + CODES, tie_word_embeddings=True)),
    "chameleon": lambda: ChameleonForConditionalGeneration(chameleon(vocab_size=VOCABULARY + CODES)),
    "gemma3": lambda: Gemma3ForConditionalGeneration(gemma3(vocab_size=VOCABULARY + CODES, sliding_window=5)),
    "janus": lambda: JanusForConditionalGeneration(janus()),
    "janus-tied": lambda: JanusForConditionalGeneration(janus(tied=True)),
}


def save(folder: Path, model: Any) -> Any:
    randomised(model).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return model


def run(folder: Path, **changes: Any) -> FusionPlan:
    return fuse(settings(folder, **changes), (CODES, (4, 4)), QUIET)


@pytest.mark.parametrize("name", COMPOSITES)
def test_image_parent_within_a_composite(name: str, tmp_path: Path) -> None:
    text, image = save(tmp_path / "text", qwen2()), save(tmp_path / "image", COMPOSITES[name]())
    plan = run(tmp_path, every=1)
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.name for tensor in plan.tensors} == written.keys()
    assert not any("vision" in key or "vq" in key for key in written)
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
    image = save(tmp_path / "image", llama_with_codes())
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
    save(tmp_path / "text", qwen2())
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
    save(tmp_path / "text", qwen2())
    save(tmp_path / "image", COMPOSITES["janus-tied"]())
    path = tmp_path / "image" / "model.safetensors"
    head = torch.randn(VOCABULARY, 32)
    save_file(load_file(path) | {"lm_head.weight": head}, path)
    run(tmp_path)
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(written["image_tower.model.lm_head.weight"], head)
    table = written["image_tower.model.model.embed_tokens.weight"]
    assert len(table) == VOCABULARY + CODES
    assert torch.equal(written["image_tower.absent_output"][0], head[:TEXT_SIZE].mean(0))


def test_uniform_of_decoders_of_their_own_class(tmp_path: Path) -> None:
    for name, config in (("text", emu3()), ("image", emu3(vocab_size=VOCABULARY + CODES))):
        save(tmp_path / name, Emu3ForConditionalGeneration(config))
    run(tmp_path, method="uniform")
    loaded = jam.load(tmp_path / "out", device="cpu").joint
    assert isinstance(loaded, SingleStream) and isinstance(loaded.model, Emu3ForCausalLM)
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
        "chameleon": (
            "uniform",
            lambda size: ChameleonForConditionalGeneration(chameleon(vocab_size=size)),
            "has no class for ChameleonDecoder.*cross keeps it",
        ),
        "gemma": (
            "width",
            lambda size: GemmaForCausalLM(GemmaConfig(**SIZES | {"vocab_size": size}, head_dim=8)),
            "gemma scales its embedding by the root of the hidden size",
        ),
        "qwen3": (
            "width",
            lambda size: Qwen3ForCausalLM(Qwen3Config(**SIZES | {"vocab_size": size}, head_dim=8)),
            r"q_norm.weight \[8\] is one for all heads",
        ),
    }
    for name, (method, make, message) in cases.items():
        save_twins(tmp_path / name, make)
        with pytest.raises(ValueError, match=message):
            run(tmp_path / name, method=method)


def test_mistakes_are_explained(tmp_path: Path) -> None:
    text, image = qwen2(), JanusForConditionalGeneration(janus())
    with pytest.raises(ValueError, match=r"the image parent \(jam_janus\) writes image codes with a module.*'exact'"):
        cross_of(text, image, "paper")
    config = cross_of(text, image).config.to_dict()
    fewer = Vocabulary(VOCABULARY, CODES - 1, eos_id=2, sentinels=4)
    with pytest.raises(ValueError, match=r"jam_janus writes 16 codes, whose rows begin at 60; the vocabulary has 15"):
        CrossForCausalLM(CrossConfig(**config | {"vocabulary": fewer.to_dict()}))
    save(tmp_path / "text", LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)))
    save(tmp_path / "image", llama_with_codes())
    path = tmp_path / "text" / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, path)
    run(tmp_path)  # the same table twice is tied all the same
    save_file(tensors | {"lm_head.weight": torch.randn(VOCABULARY, 32)}, path)
    with pytest.raises(ValueError, match="says tie_word_embeddings, but lm_head.weight and model.embed_tokens.weight"):
        run(tmp_path, out=str(tmp_path / "other"))
