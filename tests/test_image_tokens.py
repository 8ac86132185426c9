"""Which rows are image codes: named tokens of Chameleon and Emu3 as `transformers` maps them, and appended rows."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import (
    ChameleonConfig,
    Emu3Config,
    Emu3TextConfig,
    GemmaConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.chameleon.modeling_chameleon import ChameleonImageVocabularyMapping
from transformers.models.emu3.modeling_emu3 import Emu3ImageVocabularyMapping

from jam.codec.image_tokens import appended_rows, image_rows, named_rows

CODES = 120
LETTERS = str.maketrans("0123456789", "ABCDEFGHIJ")


def chameleon_name(code: int) -> str:
    return f"IMGIMG{str(code).translate(LETTERS)}Z"


def emu3_name(code: int) -> str:
    return f"<|visual token {code:06d}|>"


NAMES = {"chameleon": chameleon_name, "emu3": emu3_name}
TEXT = ["<s>", "</s>", "a", "IMG", "IMGZ", "<|image token|>", "<|visual", "<|image start|>", "<image>", "<|extra_200|>"]
ALMOST = ["IMGIMG", "IMGIMGZ", "IMGIMGaZ", "IMGIMGAZ ", "<|visual token|>", "<|visual token 00000a|>"]


def vocabulary(family: str, shuffled: bool = True) -> dict[str, int]:
    """Text tokens, with image tokens between them; their rows in any order."""
    rows = list(range(4, 4 + CODES))
    if shuffled:
        random.Random(0).shuffle(rows)
    texts = dict(zip(TEXT, [0, 1, 2, 3, *range(4 + CODES, 4 + CODES + len(TEXT) - 4)], strict=True))
    return texts | {NAMES[family](code): row for code, row in enumerate(rows)}


def tokenizer(entries: dict[str, int]) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(entries, unk_token="<s>")))


def config(family: str, entries: dict[str, int] | None, size: int = 140) -> Any:
    if family == "chameleon":
        return ChameleonConfig(vocab_size=size, vocabulary_map=entries)
    return Emu3Config(text_config=Emu3TextConfig(vocab_size=size, pad_token_id=0), vocabulary_map=entries)


# Named tokens


@pytest.mark.parametrize("source", ["config", "tokenizer", "tokenizer of a plain decoder"])
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("family", NAMES)
def test_names_map_as_in_transformers(family: str, shuffled: bool, source: str) -> None:
    entries = vocabulary(family, shuffled)
    if source == "config":
        rows = image_rows(config(family, entries), None, CODES)
    elif source == "tokenizer":
        rows = image_rows(config(family, {"<image>": 5}), tokenizer(entries), CODES)
    else:
        rows = image_rows(LlamaConfig(vocab_size=140), tokenizer(entries), CODES)
    mapping = {"chameleon": ChameleonImageVocabularyMapping, "emu3": Emu3ImageVocabularyMapping}[family](entries)
    assert rows.dtype == torch.long
    assert torch.equal(rows, mapping.img2bpe_mapping_tensor.long())
    assert sorted(rows.tolist()) == mapping.image_tokens == list(range(4, 4 + CODES))
    if not shuffled:
        assert torch.equal(rows, torch.arange(4, 4 + CODES))


def test_chameleons_letters_are_digits() -> None:
    entries = {"IMGIMGBZ": 7, "IMGIMGAZ": 9} | {chameleon_name(code): 20 + code for code in range(2, 11)}
    assert named_rows(entries, 11, 40).tolist() == [9, 7, *range(22, 31)]
    assert chameleon_name(10) == "IMGIMGBAZ"


def test_a_vocabulary_without_image_tokens() -> None:
    assert named_rows({name: row for row, name in enumerate(TEXT + ALMOST)}, CODES, 140) is None


@pytest.mark.parametrize("family", NAMES)
def test_what_is_not_one_to_one_is_named(family: str) -> None:
    entries, name = vocabulary(family), NAMES[family]
    third, missing, most = name(3), dict(entries), name(CODES)
    del missing[name(17)], missing[name(60)]
    zeros = third.replace("IMGIMG", "IMGIMGA") if family == "chameleon" else third.replace("token 0", "token ")
    wrong = {
        "image code 17 has no token; 118 of 120 codes have one": missing,
        f"row {entries[third]} is both {third!r} and {name(9)!r}": entries | {name(9): entries[third]},
        "image code 3 is both ": entries | {zeros: 139},
        f"token {most!r} is image code 120, the image tokenizer has 120 codes": entries | {most: 139},
        f"token {third!r} is row 140 of a table that has 140": entries | {third: 140},
    }
    for message, broken in wrong.items():
        with pytest.raises(ValueError) as error:
            image_rows(config(family, broken), None, CODES)
        assert f"not one-to-one: {message}" in str(error.value)
        assert "of one image parent" in str(error.value)


# Rows without names


def test_appended_rows_begin_behind_the_tokenizer() -> None:
    """Liquid: Gemma's table with the codes at its end. SimpleAR: Qwen's, cut to its tokenizer first."""
    texts = tokenizer({name: row for row, name in enumerate(TEXT)})
    assert image_rows(GemmaConfig(vocab_size=10 + 8), texts, 8).tolist() == list(range(10, 18))
    assert image_rows(LlamaConfig(vocab_size=10 + 8 + 6), texts, 8).tolist() == list(range(10, 18))
    assert image_rows(LlamaConfig(vocab_size=10 + 8 + 6), texts, 8, first=16).tolist() == list(range(16, 24))
    assert image_rows(LlamaConfig(vocab_size=8), None, 8, first=0).tolist() == list(range(8))
    assert appended_rows(256_000, 8_192, 264_192)[[0, -1]].tolist() == [256_000, 264_191]


def test_appended_rows_that_the_table_lacks() -> None:
    texts = tokenizer({name: row for row, name in enumerate(TEXT)})
    with pytest.raises(ValueError, match="8 image codes from row 10 on do not fit into a table of 17 rows"):
        image_rows(LlamaConfig(vocab_size=17), texts, 8)
    with pytest.raises(ValueError, match="8 image codes from row -1 on do not fit"):
        appended_rows(-1, 8, 20)
    with pytest.raises(ValueError, match="where the image codes begin is not known"):
        image_rows(LlamaConfig(vocab_size=17), None, 8)
