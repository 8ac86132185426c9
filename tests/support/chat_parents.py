"""Random instruct parents: tokenizers that begin a text in their own way, with chat templates of four kinds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import processors
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from jam.fusion import FuseConfig, FusionPlan, fuse
from support import tiny
from support.unlike_tokenizers import added, byte_level, sentencepiece

CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{{ turn.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Gemma 3's: the system text goes into the first question, texts are trimmed.
GEMMA = (
    "{{ bos_token }}{% set first = '' %}{% if messages[0].role == 'system' %}"
    "{% set first = messages[0].content ~ '\n\n' %}{% set messages = messages[1:] %}{% endif %}"
    "{% for turn in messages %}{% if (turn.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Turns must alternate') }}{% endif %}"
    "<start_of_turn>{{ 'model' if turn.role == 'assistant' else 'user' }}\n"
    "{{ first if loop.first }}{{ turn.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for turn in messages %}<|start_header_id|>{{ turn.role }}<|end_header_id|>\n\n"
    "{{ turn.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
# As Mistral's: no header before an answer, which a space begins and </s> ends; earlier turns end in </s> too.
MISTRAL = (
    "{{ bos_token }}{% for turn in messages %}{% if turn.role == 'user' %}[INST] {{ turn.content }} [/INST]"
    "{% elif turn.role == 'assistant' %} {{ turn.content }}</s>{% else %}"
    "{{ raise_exception('Only user and assistant roles are supported') }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Kind:
    """A kind of instruct parent.

    Args:
        names: of the special tokens that its template has.
        begins: whether its tokenizer sets its BOS before a text.
        end: the token that ends a turn.
        also: further tokens with which its ``generation_config.json`` ends.
    """

    template: str
    special: dict[str, str]
    names: tuple[str, ...]
    begins: bool
    end: str
    also: tuple[str, ...] = ()
    spaces: bool = False


KINDS = {
    "chatml": Kind(
        CHATML, {"eos_token": "<|im_end|>", "bos_token": "<|im_start|>"}, ("<|endoftext|>",), False, "<|im_end|>"
    ),
    "gemma3": Kind(
        GEMMA,
        {"eos_token": "<eos>", "bos_token": "<bos>"},
        ("<start_of_turn>", "<end_of_turn>"),
        True,
        "<end_of_turn>",
        ("<end_of_turn>",),
        spaces=True,
    ),
    "llama3": Kind(
        LLAMA3,
        {"eos_token": "<|eot_id|>", "bos_token": "<|begin_of_text|>"},
        ("<|start_header_id|>", "<|end_header_id|>", "<|end_of_text|>", "<|eom_id|>"),
        True,
        "<|eot_id|>",
        ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
    ),
    "mistral": Kind(MISTRAL, {"eos_token": "</s>", "bos_token": "<s>"}, (), True, "</s>", spaces=True),
}


def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    it = KINDS[kind]
    made = (sentencepiece if it.spaces else byte_level)(special=it.special)
    added(made, *it.names, special=True)
    if it.begins:
        bos = it.special["bos_token"]
        made.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, made.convert_tokens_to_ids(bos))]
        )
    made.chat_template = it.template
    return made


def save_text_parent(folder: Path, kind: str) -> PreTrainedModel:
    """A random model that writes letters: special tokens and bytes that are no letters are never its choice."""
    torch.manual_seed(1)
    words = tokenizer(kind)
    sizes: dict[str, Any] = dict(vocab_size=len(words), hidden_size=32, intermediate_size=40, num_hidden_layers=2)
    sizes |= dict(num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=512)
    sizes |= dict(tie_word_embeddings=False, bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id)
    if kind == "gemma3":
        model: Any = Gemma3ForCausalLM(Gemma3TextConfig(**sizes, pad_token_id=None, sliding_window=64))
    else:
        model = LlamaForCausalLM(LlamaConfig(**sizes))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        for number in range(len(words)):
            if not words.decode([number]).strip().isalpha() or not words.decode([number]).isascii():
                model.lm_head.weight[number] = 0
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    ends = [words.convert_tokens_to_ids(name) for name in (KINDS[kind].special["eos_token"], *KINDS[kind].also)]
    settings = {"bos_token_id": words.bos_token_id, "eos_token_id": ends if len(ends) > 1 else ends[0]}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def save_image_parent(folder: Path) -> None:
    torch.manual_seed(2)
    words = tiny.text_tokenizer()
    sizes: dict[str, Any] = dict(hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    model = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=len(words) + tiny.CODES, max_position_embeddings=512))
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    tiny.save_vq(folder / "image_tokenizer")


def fused(folder: Path, kind: str, **options: Any) -> tuple[PreTrainedModel, FusionPlan]:
    """The text parent of a pair that is fused into ``folder/out``, and the plan."""
    model = save_text_parent(folder / "text", kind)
    save_image_parent(folder / "image")
    paths = {"text": str(folder / "text"), "image": str(folder / "image"), "out": str(folder / "out")}
    return model, fuse(FuseConfig(**paths, sentinels=8, **options))
