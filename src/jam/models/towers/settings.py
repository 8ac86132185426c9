"""The settings of a decoder's config.json, with the defaults and present names of its class, without that class.

Importing a config class of `transformers` takes as long as fusing small models.
tests/models/test_configs_without_classes.py compares these tables with the classes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from jam.models.towers.base import FULL, SLIDING

LLAMA: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    "rope_parameters": None,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "mlp_bias": False,
}
MISTRAL = LLAMA | {
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 4096 * 32,
    "sliding_window": 4096,
}
QWEN3 = LLAMA | {
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "head_dim": 128,
    "max_position_embeddings": 32768,
    "bos_token_id": None,
    "eos_token_id": None,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "layer_types": None,
}
GEMMA = LLAMA | {
    "vocab_size": 256000,
    "hidden_size": 3072,
    "intermediate_size": 24576,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "tie_word_embeddings": True,
    "use_bidirectional_attention": None,
}
GEMMA2 = GEMMA | {
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "layer_types": None,
    "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": 50.0,
}
GEMMA3 = GEMMA2 | {
    "vocab_size": 262_208,
    "max_position_embeddings": 131_072,
    "final_logit_softcapping": None,
    "attn_logit_softcapping": None,
    "use_bidirectional_attention": False,
}
OPT: dict[str, Any] = {
    "vocab_size": 50272,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "ffn_dim": 3072,
    "max_position_embeddings": 2048,
    "do_layer_norm_before": True,
    "_remove_final_layer_norm": False,
    "word_embed_proj_dim": None,
    "dropout": 0.1,
    "attention_dropout": 0.0,
    "num_attention_heads": 12,
    "activation_function": "relu",
    "layerdrop": 0.0,
    "init_std": 0.02,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 2,
    "enable_bias": True,
    "layer_norm_elementwise_affine": True,
    "tie_word_embeddings": True,
}


def _without(defaults: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in defaults.items() if name not in names}


DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "mistral": _without(MISTRAL, "attention_bias", "mlp_bias"),
    "qwen2": _without(QWEN3, "attention_bias", "mlp_bias", "head_dim"),
    "qwen3": _without(QWEN3, "mlp_bias"),
    "gemma": _without(GEMMA, "mlp_bias"),
    "gemma2": _without(GEMMA2, "mlp_bias", "hidden_act"),
    "gemma3_text": _without(GEMMA3, "mlp_bias", "hidden_act"),
    "opt": OPT,
}
"""Fields of a decoder's config with their defaults, by `model_type`."""
SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "ffn_dim",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "word_embed_proj_dim",
)
LEFT_TO_CLASSES = ("per_layer_config", "partial_rotary_factor", "quantization_config")
"""Fields that change the meaning of other fields; only the class knows how."""
REPLACED = ("torch_dtype", "rope_scaling", "rope_theta", "rope_local_base_freq")
"""Fields of older files that other fields have replaced."""
NOT_THE_DECODERS = (
    "_name_or_path",
    "name_or_path",
    "_commit_hash",
    "architectures",
    "auto_map",
    "transformers_version",
)
"""Fields that describe the origin of a file, not the decoder."""
FIELD_KINDS: dict[Any, str] = {bool: "true or false", (int, float): "a number", str: "a text"}
SCALED = ("llama3", "yarn", "longrope")  # types of rotary positions with `original_max_position_embeddings`


class Settings(SimpleNamespace):
    """The fields of a config as attributes, with the names of its class in `transformers`."""

    model_type: str

    @classmethod
    def of(cls, values: Mapping[str, Any], owner: str) -> Settings | None:
        """The settings of a config.json with these `values`; None if only the class of `transformers` can tell.

        Args:
            owner: names the checkpoint in messages.

        Raises:
            ValueError: a field has another type than its default, or the heads do not divide the width.
        """
        kind = values.get("model_type")
        if kind not in DEFAULTS or any(values.get(name) is not None for name in LEFT_TO_CLASSES):
            return None
        settings = cls(**DEFAULTS[kind] | copy.deepcopy(dict(values)))
        settings.dtype = values.get("dtype") or values.get("torch_dtype")
        _check_sizes(settings, owner)
        _check_kinds(settings, owner)
        _complete(settings)
        if hasattr(settings, "rope_parameters"):
            settings.rope_parameters = _gemma3_rope(settings) if kind == "gemma3_text" else _rope(settings)
        return settings

    def to_dict(self) -> dict[str, Any]:
        """The fields with their present names, as values for JSON."""
        left_out = REPLACED + NOT_THE_DECODERS
        return {name: copy.deepcopy(value) for name, value in vars(self).items() if name not in left_out}


def _complete(settings: Settings) -> None:
    """Set missing fields that follow from other fields."""
    kind, heads = settings.model_type, settings.num_attention_heads
    if kind == "opt":
        settings.word_embed_proj_dim = settings.word_embed_proj_dim or settings.hidden_size
        return
    if settings.num_key_value_heads is None:
        settings.num_key_value_heads = heads
    if kind in ("llama", "mistral") and settings.head_dim is None:
        settings.head_dim = settings.hidden_size // heads
    if kind == "gemma" and settings.hidden_act == "gelu":
        settings.hidden_act = "gelu_pytorch_tanh"
    layers = range(settings.num_hidden_layers)
    if kind in ("qwen2", "qwen3"):
        settings.sliding_window = settings.sliding_window if settings.use_sliding_window else None
        if settings.layer_types is None:
            first = settings.max_window_layers if settings.sliding_window is not None else len(layers)
            settings.layer_types = [SLIDING if layer >= first else FULL for layer in layers]
    if kind in ("gemma2", "gemma3_text") and settings.layer_types is None:
        every = getattr(settings, "sliding_window_pattern", 6) if kind == "gemma3_text" else 2
        settings.layer_types = [SLIDING if (layer + 1) % every else FULL for layer in layers]


def _check_kinds(settings: Settings, owner: str) -> None:
    """Raise ValueError for a field of another type than its default; ids may be lists, and any field null."""
    for name, default in DEFAULTS[settings.model_type].items():
        value = getattr(settings, name)
        if value is None or default is None or name.endswith("_token_id"):
            continue
        kinds = next(kinds for kinds in FIELD_KINDS if isinstance(default, kinds))
        if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool):
            raise ValueError(f"config.json of {owner}: {name} is {value!r:.80}; it must be {FIELD_KINDS[kinds]}")


def _check_sizes(settings: Settings, owner: str) -> None:
    for name in SIZES:
        value = getattr(settings, name, None)
        if value is not None and (type(value) is not int or value < 1):
            raise ValueError(f"config.json of {owner}: {name} is {value!r}; it must be a whole number above 0")
    if settings.model_type in ("llama", "gemma2", "gemma3_text") and (
        settings.hidden_size % settings.num_attention_heads
    ):
        raise ValueError(
            f"config.json of {owner}: hidden_size {settings.hidden_size} is no multiple of num_attention_heads "
            f"{settings.num_attention_heads}"
        )


def _rope(settings: Settings) -> dict[str, Any]:
    """`rope_parameters`, completed from the fields of older files."""
    rope = getattr(settings, "rope_scaling", None) or settings.rope_parameters or {}
    theta = getattr(settings, "rope_theta", 10_000.0)
    nested = [rope[kind] for kind in rope if kind in (getattr(settings, "layer_types", None) or ())]
    for parameters in nested or [rope]:
        if parameters is not None:
            parameters.setdefault("rope_theta", theta)
            _standardise(parameters, settings)
    return rope


def _gemma3_rope(settings: Settings) -> dict[str, Any]:
    """`rope_parameters` by type of layer."""
    rope = settings.rope_parameters or {}
    if scaling := getattr(settings, "rope_scaling", None):
        rope[FULL] = (rope.get(FULL) or {"rope_type": "default"}) | scaling
    thetas = {
        SLIDING: getattr(settings, "rope_local_base_freq", 10_000.0),
        FULL: getattr(settings, "rope_theta", 1_000_000.0),
    }
    for kind, theta in thetas.items():
        rope[kind] = rope.get(kind) or {"rope_type": "default"}
        rope[kind].setdefault("rope_theta", theta)
        _standardise(rope[kind], settings)
    return rope


def _standardise(parameters: dict[str, Any], settings: Settings) -> None:
    parameters.setdefault("rope_type", parameters.get("type", "default"))
    if parameters["rope_type"] in SCALED:
        parameters.setdefault("original_max_position_embeddings", settings.max_position_embeddings)
