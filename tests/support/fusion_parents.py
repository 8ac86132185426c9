"""Small random parents for the tests of fusion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, processors
from tokenizers.models import BPE
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from jam.fusion import FuseConfig, FusionPlan, fuse

TEXT_SIZE, CODES, GRID, SENTINELS = 12, 6, (2, 3), 3
IMAGE_TOKENIZER = (CODES, GRID)
PLAIN = {"enable_bias": False, "layer_norm_elementwise_affine": False}  # the paper's parents


def tokenizer(letters: str = "abcdefg", merges: tuple[tuple[str, str], ...] = (("a", "b"), ("b", "c"))) -> Any:
    """A BPE tokenizer of `TEXT_SIZE` entries, which begins a text with `</s>` as OPT's does."""
    vocab = {token: index for index, token in enumerate(["<unk>", "<pad>", "</s>", *letters, "ab", "bc"])}
    bpe = Tokenizer(BPE(vocab, list(merges), unk_token="<unk>"))
    bpe.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, unk_token="<unk>", pad_token="<pad>", eos_token="</s>")


def opt_config(vocab_size: int, **changes: Any) -> OPTConfig:
    sizes: dict[str, Any] = dict(hidden_size=8, word_embed_proj_dim=8, ffn_dim=12, num_hidden_layers=2)
    sizes |= dict(num_attention_heads=2, max_position_embeddings=16, vocab_size=vocab_size, dropout=0.0)
    return OPTConfig(**(sizes | changes))


def llama_config(vocab_size: int, **changes: Any) -> LlamaConfig:
    sizes: dict[str, Any] = dict(hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=4)
    sizes |= dict(num_key_value_heads=2, head_dim=4, max_position_embeddings=16, vocab_size=vocab_size)
    return LlamaConfig(**(sizes | changes))


def save_parent(folder: Path, config: Any, seed: int, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A random parent (every tensor far from its initial zeros and ones) with its tokenizer."""
    torch.manual_seed(seed)
    model = (OPTForCausalLM if config.model_type == "opt" else LlamaForCausalLM)(config).to(dtype)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return model.eval()


def save_pair(folder: Path, make: Any, dtype: torch.dtype = torch.float32, **changes: Any) -> list[PreTrainedModel]:
    return [
        save_parent(folder / "text", make(TEXT_SIZE, **changes), 1, dtype),
        save_parent(folder / "image", make(TEXT_SIZE + CODES, **changes), 2, dtype),
    ]


def settings(folder: Path, **changes: Any) -> FuseConfig:
    paths = {"text": str(folder / "text"), "image": str(folder / "image"), "out": str(folder / "out")}
    return FuseConfig(**(paths | {"sentinels": SENTINELS} | changes))


def run(folder: Path, **changes: Any) -> FusionPlan:
    return fuse(settings(folder, **changes), IMAGE_TOKENIZER)


def opened(folder: Path, **options: Any) -> PreTrainedModel:
    """The fused folder through the Auto class; nothing may be missing, left over or of another shape."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **options)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


def save_unlike_contexts(folder: Path, text: str = "opt", image: str = "llama", lengths: Any = (16, 40)) -> list[Any]:
    make = {"opt": opt_config, "llama": llama_config}
    return [
        save_parent(folder / "text", make[text](TEXT_SIZE, max_position_embeddings=lengths[0]), 1),
        save_parent(folder / "image", make[image](TEXT_SIZE + CODES, max_position_embeddings=lengths[1]), 2),
    ]
