"""Which rows are image codes: named tokens of Chameleon and Emu3 as `transformers` maps them."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import (
    ChameleonConfig,
    Emu3Config,
    Emu3TextConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.chameleon.modeling_chameleon import ChameleonImageVocabularyMapping
from transformers.models.emu3.modeling_emu3 import Emu3ImageVocabularyMapping

from jam.fusion.image_tokens import image_rows, named_rows

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
        rows = image_rows(config(family, entries), None, CODES, 140)
    elif source == "tokenizer":
        rows = image_rows(config(family, {"<image>": 5}), tokenizer(entries), CODES, 140)
    else:
        rows = image_rows(LlamaConfig(vocab_size=140), tokenizer(entries), CODES, 140)
    mapping = {"chameleon": ChameleonImageVocabularyMapping, "emu3": Emu3ImageVocabularyMapping}[family](entries)
    assert rows.tolist() == mapping.img2bpe_mapping_tensor.tolist()
    assert sorted(rows.tolist()) == mapping.image_tokens == list(range(4, 4 + CODES))
    if not shuffled:
        assert rows.tolist() == list(range(4, 4 + CODES))


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
            image_rows(config(family, broken), None, CODES, 140)
        assert f"not one-to-one: {message}" in str(error.value)
        assert "of one image parent" in str(error.value)


def test_config_and_tokenizer_must_agree() -> None:
    entries = vocabulary("emu3")
    assert image_rows(config("emu3", entries), tokenizer(entries), CODES, 140) is not None
    one, other = emu3_name(7), emu3_name(30)
    swapped = entries | {one: entries[other], other: entries[one]}
    with pytest.raises(
        ValueError, match=rf"image code 7 is row {entries[one]} by .* {entries[other]} by the tokenizer"
    ):
        image_rows(config("emu3", entries), tokenizer(swapped), CODES, 140)
