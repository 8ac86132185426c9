"""Tiny tokenizers with the token names of families, and codecs in the layouts of these."""

from __future__ import annotations

from functools import cache
from typing import Any

from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from jam.codec import Codec, ImageTokenizer
from jam.grammar import Grammar
from jam.layout import ImageLayout, NamedLayout
from jam.models.towers import FAMILIES
from jam.vocabulary import Vocabulary
from support import tiny

LAYOUTS: dict[str, NamedLayout] = {
    layout.name: layout for family in FAMILIES.values() for layout in family.layouts
}  # of all families
PAD = "<\uff5c\u2581pad\u2581\uff5c>"
CHAMELEON = {"bos_token": "<s>", "sep_token": "<reserved08706>", "names": ["<image>", "<racm3:break>", "<eoss>"]}
SPECIAL: dict[str, dict[str, Any]] = {
    "chameleon": CHAMELEON,
    "lumina-mgpt": CHAMELEON
    | {"names": [*CHAMELEON["names"], "<reserved08799>", *(f"<reserved{8800 + n:05}>" for n in range(65))]},
    "emu3": {
        "bos_token": "<|extra_203|>",
        "names": ["<|image start|>", "<|image token|>", "<|image end|>", "<|extra_200|>", "<|extra_201|>", "<image>"],
        "extra_special_tokens": {
            "image_token": "<image>",
            "boi_token": "<|image start|>",
            "eoi_token": "<|image end|>",
            "image_wrapper_token": "<|image token|>",
            "eof_token": "<|extra_201|>",
        },
    },
    "janus": {
        "bos_token": "<\uff5cbegin\u2581of\u2581sentence\uff5c>",
        "pad_token": PAD,
        "names": ["<image_placeholder>", "<begin_of_image>", "<end_of_image>", "<|User|>", "<|Assistant|>"],
        "extra_special_tokens": {
            "image_token": "<image_placeholder>",
            "boi_token": "<begin_of_image>",
            "eoi_token": "<end_of_image>",
        },
    },
    "liquid": {"bos_token": "<bos>", "names": ["<boi>", "<eoi>", "<unconditional>"]},
    "simplear": {"names": ["<|soi|>", "<|eoi|>", "<|t2i|>"]},
}


NAMED = dict.fromkeys(("chameleon", "lumina-mgpt"), "IMGIMG{0}Z") | {"emu3": "<|visual token {1:06d}|>"}


def _letters(code: int) -> str:
    return str(code).translate(str.maketrans("0123456789", "ABCDEFGHIJ"))


@cache
def tokenizer(family: str, codes: int = 0) -> PreTrainedTokenizerFast:
    """A byte-level BPE with the special tokens of a family; `</s>` is id 0. Those with a BOS add it themselves.

    Args:
        codes: so many image codes have names among the special tokens.
    """
    made = tiny.text_tokenizer()
    special = SPECIAL[family]
    roles = {role: special[role] for role in ("bos_token", "sep_token", "pad_token") if role in special}
    code_names = [NAMED.get(family, "{}").format(_letters(code), code) for code in range(codes)]
    names = [*roles.values(), *special["names"], *code_names]
    made.add_special_tokens({"additional_special_tokens": names})
    if (begin := special.get("bos_token")) is not None and family != "emu3":  # whose processor does it instead
        ids = [(begin, made.convert_tokens_to_ids(begin))]
        made.backend_tokenizer.post_processor = TemplateProcessing(f"{begin} $A", special_tokens=ids)
    return PreTrainedTokenizerFast(
        tokenizer_object=made.backend_tokenizer,
        eos_token="</s>",
        **roles,
        extra_special_tokens=special.get("extra_special_tokens", {}),
    )


def layout(family: str) -> ImageLayout:
    return LAYOUTS[family].resolve(tokenizer(family))


def vocabulary(family: str, codes: int = tiny.CODES) -> Vocabulary:
    return Vocabulary(len(tokenizer(family)), codes, 0, tiny.SENTINELS, layout=layout(family))


def codec(family: str, grid: tuple[int, int] = (2, 4), images: ImageTokenizer | None = None) -> Codec:
    joint = vocabulary(family, tiny.CODES if images is None else images.info.codebook_size)
    return Codec(joint, Grammar(joint, grid), tokenizer(family), images)
