"""Tiny random models of every family: two configs each, and the logits that their towers must have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import (
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    Emu3Config,
    Emu3ForCausalLM,
    Emu3ForConditionalGeneration,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    JanusConfig,
    JanusForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.emu3.configuration_emu3 import Emu3TextConfig

from jam.models import RowCache
from jam.models.towers import Tower, composite_of

VOCABULARY, CODES, LENGTH = 60, 16, 17
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TIED, UNTIED = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 16}
LINEAR = {"rope_type": "linear", "rope_theta": 1000.0, "factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 2.0, "original_max_position_embeddings": 32}
WINDOW, WHOLE = "sliding_attention", "full_attention"
EAGER = {"attn_implementation": "eager"}
VQ = {"base_channels": 32, "channel_multiplier": [1], "num_res_blocks": 1, "embed_dim": 4, "latent_channels": 4}


def chameleon(**changes: Any) -> ChameleonConfig:
    names = {"<image>": 3} | {f"IMGIMG{chr(65 + code)}Z": 4 + code for code in range(8)}
    vq = VQ | {"num_embeddings": 8, "resolution": 16, "attn_type": "none"}
    return ChameleonConfig(**SIZES | {"vq_config": vq, "vocabulary_map": names} | changes)


def emu3(names: dict[str, int] | None = None, vq: dict[str, Any] | None = None, **changes: Any) -> Emu3Config:
    text = Emu3TextConfig(**SIZES | {"pad_token_id": 0} | changes)
    small = {"codebook_size": 8, "attn_resolutions": [], "hidden_size": 32, "temporal_downsample_factor": 2}
    vq = VQ | small | (vq or {})
    names = {"<image>": 3, "<|extra_200|>": 4} | (names or {})
    tied = text.tie_word_embeddings
    return Emu3Config(text_config=text.to_dict(), vq_config=vq, vocabulary_map=names, tie_word_embeddings=tied)


def gemma3(**changes: Any) -> Gemma3Config:
    text = Gemma3TextConfig(**SIZES | {"head_dim": 8, "query_pre_attn_scalar": 8, "pad_token_id": 0} | changes)
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 8, "patch_size": 4, "model_type": "siglip_vision_model"}
    tied = text.tie_word_embeddings
    return Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=1, tie_word_embeddings=tied, image_token_index=3
    )


def janus(layers: int = 2, tied: bool = False, vq: dict[str, Any] | None = None, **changes: Any) -> JanusConfig:
    text = LlamaConfig(**SIZES | changes)
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8, "patch_size": 4}
    vision |= {"projection_dim": 32, "num_image_tokens": 4}
    small = {"num_embeddings": CODES, "projection_dim": 32, "image_token_embed_dim": 32, "num_hidden_layers": layers}
    vq = VQ | small | (vq or {})
    return JanusConfig(
        text_config=text.to_dict(), vision_config=vision, vq_config=vq, image_token_id=3, tie_word_embeddings=tied
    )


Make = Callable[[], PretrainedConfig]
CONFIGS: dict[str, tuple[type[PreTrainedModel], Make]] = {
    "llama-llama3": (LlamaForCausalLM, lambda: LlamaConfig(**SIZES, rope_parameters=LLAMA3)),
    "llama-yarn": (LlamaForCausalLM, lambda: LlamaConfig(**SIZES, **TIED, head_dim=16, rope_parameters=YARN)),
    "qwen2": (Qwen2ForCausalLM, lambda: Qwen2Config(**SIZES, **UNTIED)),
    "qwen2-window": (
        Qwen2ForCausalLM,
        lambda: Qwen2Config(
            **SIZES, **TIED, use_sliding_window=True, sliding_window=5, max_window_layers=1, rope_parameters=YARN
        ),
    ),
    "qwen3": (Qwen3ForCausalLM, lambda: Qwen3Config(**SIZES, **UNTIED, head_dim=16)),
    "qwen3-window": (
        Qwen3ForCausalLM,
        lambda: Qwen3Config(
            **SIZES | {"num_key_value_heads": 4},
            **TIED,
            head_dim=8,
            attention_bias=True,
            use_sliding_window=True,
            sliding_window=4,
            layer_types=[WINDOW, WHOLE, WINDOW],
        ),
    ),
    "mistral": (MistralForCausalLM, lambda: MistralConfig(**SIZES, **TIED, sliding_window=None, head_dim=16)),
    "mistral-window": (
        MistralForCausalLM,
        lambda: MistralConfig(**SIZES, **UNTIED, sliding_window=6, rope_parameters=LINEAR),
    ),
    "gemma": (GemmaForCausalLM, lambda: GemmaConfig(**SIZES, **UNTIED, head_dim=8)),
    "gemma-one-key": (
        GemmaForCausalLM,
        lambda: GemmaConfig(**SIZES | {"num_key_value_heads": 1, "pad_token_id": 0}, **TIED, head_dim=16),
    ),
    "gemma2": (
        Gemma2ForCausalLM,
        lambda: Gemma2Config(
            **SIZES,
            **TIED,
            **EAGER,
            head_dim=8,
            query_pre_attn_scalar=16,
            sliding_window=5,
            attn_logit_softcapping=1.5,
            final_logit_softcapping=2.0,
        ),
    ),
    "gemma2-no-caps": (
        Gemma2ForCausalLM,
        lambda: Gemma2Config(
            **SIZES | {"num_key_value_heads": 4},
            **UNTIED,
            **EAGER,
            head_dim=16,
            sliding_window=40,
            layer_types=[WHOLE, WINDOW, WHOLE],
            attn_logit_softcapping=None,
            final_logit_softcapping=None,
        ),
    ),
    "gemma3": (
        Gemma3ForCausalLM,
        lambda: Gemma3TextConfig(
            **SIZES,
            **TIED,
            head_dim=8,
            query_pre_attn_scalar=8,
            sliding_window=5,
            layer_types=[WINDOW, WINDOW, WHOLE],
            rope_parameters={WHOLE: LINEAR, WINDOW: {"rope_type": "default", "rope_theta": 10.0}},
        ),
    ),
    "gemma3-local": (  # as few layers as this all see a window by default
        Gemma3ForCausalLM,
        lambda: Gemma3TextConfig(
            **SIZES, **UNTIED, head_dim=16, query_pre_attn_scalar=8, sliding_window=17, final_logit_softcapping=2.0
        ),
    ),
    "gemma3-composite": (
        Gemma3ForConditionalGeneration,
        lambda: gemma3(**TIED, sliding_window=5, layer_types=[WINDOW, WHOLE, WINDOW]),
    ),
    "chameleon": (ChameleonForConditionalGeneration, lambda: chameleon(**UNTIED, swin_norm=False)),
    "chameleon-swin": (
        ChameleonForConditionalGeneration,
        lambda: chameleon(
            **TIED, swin_norm=True, num_key_value_heads=4, attention_bias=True, mlp_bias=True, rope_parameters=LINEAR
        ),
    ),
    "emu3-text": (Emu3ForCausalLM, lambda: Emu3TextConfig(**SIZES | {"pad_token_id": 0}, **UNTIED)),
    "emu3": (Emu3ForConditionalGeneration, lambda: emu3(**UNTIED)),
    "emu3-tied": (
        Emu3ForConditionalGeneration,
        lambda: emu3(**TIED, num_key_value_heads=4, rope_parameters=LLAMA3),
    ),
    "janus": (JanusForConditionalGeneration, lambda: janus()),
    "janus-tied": (
        JanusForConditionalGeneration,
        lambda: janus(layers=3, tied=True, num_key_value_heads=4, rope_parameters=LINEAR),
    ),
}


def original(name: str, seed: int = 0) -> Any:
    """The original class with random weights."""
    torch.manual_seed(seed)
    model_class, make = CONFIGS[name]
    return randomised(model_class(make()))


def randomised(model: Any) -> Any:
    """No zeros and ones left in norms and biases, so that a forgotten one shows."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model.eval()


def decoder_tensors(model: Any) -> dict[str, Tensor]:
    """A model's tensors by their names in the decoder's class, as fusion finds them in a checkpoint."""
    composite, state = composite_of(model.config), model.state_dict()
    tensors = {composite.name_of(name): tensor for name, tensor in state.items()}
    for name, made in composite.made(model.config, state).items():
        tensors[name] = made.compute(*(state[source] for source in made.sources))
    return {name: tensor for name, tensor in tensors.items() if name is not None}


def tower_of(model: Any) -> Tower:
    """A tower with the model's weights, made from its config."""
    tower = Tower(model.config)
    tower.model.load_state_dict(decoder_tensors(model))
    return tower.eval()


def random_rows(vocabulary: int) -> list[Tensor]:
    """Ids for the three rows of `in_steps`."""
    return [torch.randint(vocabulary, (length,)) for length in (LENGTH, 12, 15)]


def in_steps(cache: RowCache, rows: list[Tensor], forward: Callable[..., Tensor]) -> list[Tensor]:
    """What `forward` (ids, positions, mask, cache) gives for rows of different lengths, fed in pieces."""
    forwards = [([4, 9, 1], [0, 1, 2]), ([1, 2], [2, 0]), ([1, 1, 1], [0, 1, 2]), ([9, 1], [2, 0]), ([2], [1])]
    parts: list[list[Tensor]] = [[] for _ in rows]
    lengths = [0 for _ in rows]
    for counts, active in [*forwards, ([9, 3], [0, 2])]:
        positions, mask = cache.step(torch.tensor(counts), torch.tensor(active))
        ids = torch.zeros(positions.shape, dtype=torch.long)
        for index, (count, row) in enumerate(zip(counts, active, strict=True)):
            ids[index, :count] = rows[row][lengths[row] : lengths[row] + count]
        result = forward(ids, positions, mask, cache)
        assert result.isfinite().all()  # padding too
        cache.advance()
        for index, (count, row) in enumerate(zip(counts, active, strict=True)):
            parts[row].append(result[index, :count])
            lengths[row] += count
    assert lengths == [len(row) for row in rows]
    return [torch.cat(part) for part in parts]


def text_logits(model: Any, ids: Tensor) -> Tensor:
    """Logits [B, T, V] of the original class; of Chameleon those of its head, before its `forward` overwrites some."""
    if isinstance(model, ChameleonForConditionalGeneration):
        return model.lm_head(model.model(ids).last_hidden_state)
    return model(ids).logits
