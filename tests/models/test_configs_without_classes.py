"""What is said of configs and tensors without classes of `transformers`, held against these classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, OPTConfig, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from jam.checkpoints.configs import load_config
from jam.fusion.parents import read_settings
from jam.fusion.skeleton import Skeleton, tensor_shapes
from jam.models import CrossConfig, CrossForCausalLM
from jam.models.cross_shapes import READOUTS, tensor_shapes_of_cross
from jam.models.towers import FAMILIES, decoder_config, family_of
from jam.models.towers.settings import DEFAULTS, NOT_THE_DECODERS, REPLACED, Settings
from jam.planning.network import read_config
from jam.vocabulary import ParentRows
from support import family_pairs
from support.families import CONFIGS, LINEAR, LLAMA3, SIZES, TIED, UNTIED, WHOLE, WINDOW, YARN
from support.joint_models import IMAGE_SIZE, PARENTS, TEXT_SIZE, config_of, pair

OPT_SIZES = {"vocab_size": 60, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
# Files as they lie on the hub: older names, fields left out, fields that are null.
FILES: dict[str, dict[str, Any]] = {
    **{f"{kind} without a field": {"model_type": kind} for kind in DEFAULTS},
    **{f"{kind} tied": {"model_type": kind, **SIZES, **TIED} for kind in DEFAULTS if kind != "opt"},
    **{f"{kind} untied": {"model_type": kind, **SIZES, **UNTIED} for kind in DEFAULTS if kind != "opt"},
    "llama, older": {
        "model_type": "llama",
        **SIZES,
        "torch_dtype": "bfloat16",
        "rope_theta": 500.0,
        "rope_scaling": {"type": "linear", "factor": 4.0},
        "num_key_value_heads": None,
        "head_dim": None,
    },
    "llama, biases": {"model_type": "llama", **SIZES, "attention_bias": True, "mlp_bias": True, "head_dim": 16},
    "llama, llama3": {"model_type": "llama", **SIZES, "rope_scaling": LLAMA3, "rope_theta": 7.0, "dtype": "float16"},
    "llama, yarn": {"model_type": "llama", **SIZES, "rope_parameters": {"rope_type": "yarn", "factor": 2.0}},
    "llama, yarn before": {"model_type": "llama", **SIZES, "rope_scaling": YARN, "original_max_position_embeddings": 9},
    "llama, no positions said": {"model_type": "llama", **SIZES, "rope_scaling": None, "rope_parameters": None},
    "mistral, no window": {"model_type": "mistral", **SIZES, "sliding_window": None, "head_dim": 16},
    "qwen2, window": {
        "model_type": "qwen2",
        **SIZES,
        "use_sliding_window": True,
        "sliding_window": 5,
        "max_window_layers": 1,
    },
    "qwen2, a window that is not used": {"model_type": "qwen2", **SIZES, "sliding_window": 5},
    "qwen3, biases": {"model_type": "qwen3", **SIZES, "attention_bias": True, "layer_types": [WINDOW, WHOLE, WINDOW]},
    "gemma, older": {"model_type": "gemma", **SIZES, "hidden_act": "gelu", "rope_theta": 5.0, "head_dim": 8},
    "gemma, biases": {"model_type": "gemma", **SIZES, "attention_bias": True},
    "gemma2, types": {"model_type": "gemma2", **SIZES, "layer_types": [WHOLE, WINDOW, WHOLE], "head_dim": 8},
    "gemma3, older": {
        "model_type": "gemma3_text",
        **SIZES,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "rope_theta": 50.0,
        "rope_local_base_freq": 20.0,
        "sliding_window_pattern": 2,
    },
    "gemma3, by type": {
        "model_type": "gemma3_text",
        **SIZES,
        "layer_types": [WINDOW, WHOLE, WHOLE],
        "rope_parameters": {WHOLE: LINEAR, WINDOW: {"rope_type": "default", "rope_theta": 10.0}},
    },
    "opt, narrow": {"model_type": "opt", **OPT_SIZES, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
    "opt, plain norms": {
        "model_type": "opt",
        **OPT_SIZES,
        "layer_norm_elementwise_affine": False,
        "enable_bias": False,
        "tie_word_embeddings": False,
    },
    "opt, no final norm": {"model_type": "opt", **OPT_SIZES, "_remove_final_layer_norm": True},
}


def classes_shapes(config: PretrainedConfig) -> list[tuple[str, tuple[int, ...]]]:
    with torch.device("meta"):
        return list(tensor_shapes(family_of(config).model_class(config)).items())


@pytest.mark.parametrize("name", FILES)
def test_a_file_means_what_its_class_says(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(FILES[name]))
    config = AutoConfig.from_pretrained(tmp_path)
    settings = Settings.of(FILES[name], name)
    assert settings is not None
    fields = DEFAULTS[config.model_type].keys() | {"model_type"}
    assert {field: getattr(settings, field) for field in fields} == {field: getattr(config, field) for field in fields}
    dtype = config.dtype
    assert settings.dtype == (None if dtype is None else str(dtype).removeprefix("torch."))
    small = name if "without" not in name else None
    if small:
        family = family_of(config)
        shapes = family.shapes(settings)
        assert shapes is not None and list(shapes.items()) == classes_shapes(config)  # in the same order
        assert family.shapes(config) == shapes
        assert family.layer_types(settings) == family.layer_types(config)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FILES)
def test_what_is_written_of_a_file_means_the_same(name: str, tmp_path: Path) -> None:
    """All fields that its class finds in it, and no others."""
    (tmp_path / "config.json").write_text(json.dumps(FILES[name]))
    settings = Settings.of(FILES[name] | {"_name_or_path": "/home/somebody", "auto_map": {"AutoConfig": "x.Y"}}, name)
    assert settings is not None
    values = json.loads(json.dumps(settings.to_dict()))
    assert not values.keys() & {*REPLACED, *NOT_THE_DECODERS}
    written = AutoConfig.for_model(**values)
    expected = AutoConfig.from_pretrained(tmp_path).to_dict()
    assert written.to_dict() | {"_name_or_path": ""} == expected | {"_name_or_path": ""}


@pytest.mark.parametrize("name", CONFIGS)
def test_what_a_class_saves_means_the_same(name: str, tmp_path: Path) -> None:
    whole = CONFIGS[name][1]()
    whole.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    config, settings = decoder_config(whole), Settings.of(values, name)
    assert (settings is None) == (whole.model_type not in DEFAULTS)
    shapes = family_of(config).shapes(config)
    if shapes is not None:
        assert list(shapes.items()) == classes_shapes(config)
    if settings is not None:
        for field in DEFAULTS[whole.model_type]:
            assert getattr(settings, field) == getattr(config, field), field


def test_no_field_of_a_class_is_forgotten() -> None:
    """All that a class declares beyond what every config has, but for two that change nothing of a fused model."""
    common = PretrainedConfig.__dataclass_fields__.keys()
    for kind, defaults in DEFAULTS.items():
        declared = CONFIG_MAPPING[kind].__dataclass_fields__.keys() - common - {"use_cache", "pretraining_tp"}
        assert declared <= defaults.keys(), kind
        assert defaults.keys() <= declared | {"tie_word_embeddings"}, kind


def test_every_family_is_one_that_has_a_tower() -> None:
    assert DEFAULTS.keys() <= FAMILIES.keys()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_size": "32"}, r"config.json of the text parent: hidden_size is '32'; it must be a whole number"),
        ({"vocab_size": 0}, "vocab_size is 0; it must be"),
        ({"num_hidden_layers": 2.5}, "num_hidden_layers is 2.5"),
        ({"num_attention_heads": 5}, "hidden_size 32 is no multiple of num_attention_heads 5"),
    ],
)
def test_sizes_that_are_none(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings.of({"model_type": "llama", **SIZES, **values}, "the text parent")


@pytest.mark.parametrize(
    "values",
    [
        {"model_type": "gpt2"},
        {},
        {"model_type": "llama", "partial_rotary_factor": 0.5},
        {"model_type": "llama", "quantization_config": {"quant_method": "fp8"}},
    ],
)
def test_what_only_a_class_can_tell(values: dict[str, Any]) -> None:
    assert Settings.of(values, "the text parent") is None


def test_reading_leaves_the_values_alone() -> None:
    values = {"model_type": "llama", **SIZES, "rope_scaling": dict(LINEAR)}
    before = json.dumps(values)
    assert Settings.of(values, "it") is not None
    assert json.dumps(values) == before


def test_the_positions_of_opt_have_two_rows_more() -> None:
    shapes = family_of(OPTConfig()).shapes(OPTConfig(**OPT_SIZES, max_position_embeddings=64))
    assert shapes is not None and shapes["model.decoder.embed_positions.weight"] == (66, 32)


# --- cross models --------------------------------------------------------------------------------------------------


def joint_cross(name: str, readout: str) -> CrossConfig:
    return config_of(*pair(name), readout=readout)


def family_cross(name: str) -> CrossConfig:
    return family_pairs.cross_of(*family_pairs.PAIRS[name]()).config


MADE = ParentRows(0, TEXT_SIZE, eos_row=2, made_text=True)  # rows of an image parent with a tokenizer of its own
CROSS: dict[str, Callable[[], CrossConfig]] = {
    **{f"{pair} {readout}": partial(joint_cross, pair, readout) for pair in ("opt", "llama") for readout in READOUTS},
    "unequal": partial(joint_cross, "unequal", "exact"),
    "no exchange": lambda: config_of(*pair("opt"), every=0),
    "biases": lambda: config_of(PARENTS["opt-biases"](TEXT_SIZE), PARENTS["opt-post-norm"](IMAGE_SIZE), every=1),
    "biases shared": lambda: config_of(*(PARENTS["opt-biases"](size) for size in (TEXT_SIZE, IMAGE_SIZE)), 1, "paper"),
    "llama and opt shared": lambda: config_of(PARENTS["llama"](TEXT_SIZE), PARENTS["opt"](IMAGE_SIZE), 1, "paper"),
    **{name: partial(family_cross, name) for name in family_pairs.PAIRS},
}


@pytest.mark.parametrize("name", CROSS)
@pytest.mark.parametrize("made_text", [False, True])
def test_tensors_of_a_cross_model(name: str, made_text: bool) -> None:
    config = CROSS[name]()
    if made_text and config.readout == "exact" and config.image_config.model_type != "jam_janus":
        config.image_rows = asdict(MADE)
    with torch.device("meta"):
        expected = tensor_shapes(CrossForCausalLM(config))
    decoders = {"text": config.text_config, "image": config.image_config}
    rows = dict(zip(decoders, config.parent_rows, strict=True))
    shapes = {role: Skeleton(decoder).shapes for role, decoder in decoders.items()}
    found = tensor_shapes_of_cross(decoders, shapes, rows, config.joint_vocabulary, config.cross_every, config.readout)
    assert list(found.items()) == list(expected.items())


@pytest.mark.parametrize(
    ("kind", "name", "value", "must_be"),
    [
        ("llama", "initializer_range", "", "a number"),
        ("opt", "init_std", [0.02], "a number"),
        ("gemma2", "query_pre_attn_scalar", True, "a number"),
        ("qwen3", "tie_word_embeddings", 1, "true or false"),
        ("llama", "hidden_act", 5, "a text"),
    ],
)
def test_fields_of_another_kind(kind: str, name: str, value: Any, must_be: str) -> None:
    with pytest.raises(ValueError, match=rf"^config.json of the parent: {name} is .*; it must be {must_be}$"):
        Settings.of({"model_type": kind, name: value}, "the parent")


@pytest.mark.parametrize("kind", ["llama", "chameleon", "jam_cross"])
def test_a_config_of_millions_of_layers_is_damaged(tmp_path: Path, kind: str) -> None:
    """Of a decoder, of one inside a config, and of a family that only its class knows."""
    many = {"num_hidden_layers": 10**7}
    raw = {"model_type": kind, **({"text_config": many} if kind == "jam_cross" else many)}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    for read in (load_config, read_config, lambda folder: read_settings(folder, "the text parent")):
        with pytest.raises(ValueError, match=r"config.json: num_hidden_layers is 10000000; it must be 10000 or less"):
            read(tmp_path)


@pytest.mark.parametrize("kind", [{}, {"x": 1}, [1], 7])
def test_a_kind_that_is_no_name(tmp_path: Path, kind: Any) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(ValueError, match=r"its config.json cannot be read: .*; get this file anew"):
        load_config(tmp_path)


def test_fields_that_may_be_null_or_lists() -> None:
    assert (
        Settings.of({"model_type": "llama", "eos_token_id": [1, 2], "attention_dropout": 0}, "the parent") is not None
    )
    assert Settings.of({"model_type": "llama", "tie_word_embeddings": None}, "the parent") is not None
