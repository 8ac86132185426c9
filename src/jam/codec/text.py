"""Text tokenizers: any of `transformers`.

Each text of a document is encoded as the tokenizer encodes a text of its own. SentencePiece-style tokenizers put a
space in front of that, which their decoders remove again; some add none where the text has one, so that "a" and " a"
have the same ids. Here one space is removed where one is added, and a text whose leading space would be swallowed is
given one more, so that every text comes back. What a tokenizer's normalizer changes (NFKC, lower case, the sign U+2581
that stands for a space) cannot come back.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from jam.checkpoints.folders import TOKENIZER_FOLDER, tokenizer_folder
from jam.files import FileError, reading

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer in ``folder/tokenizer`` or in ``folder`` itself.

    Raises:
        ValueError: there is none, or it has no end-of-text token to serve as ``</s>``.
    """
    from transformers import AutoTokenizer

    folder = Path(folder)
    source = tokenizer_folder(folder)
    if source is None:
        raise FileError(f"{folder} holds no tokenizer; copy its files into {folder / TOKENIZER_FOLDER}")
    with reading(f"the tokenizer {source}", f"copy its files into {folder / TOKENIZER_FOLDER} anew"):
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)
        tokenizer.decode([*tokenizer("a")["input_ids"], *_plain_ids(tokenizer, "a")])
    if tokenizer.eos_token_id is None:
        raise ValueError(f"{source}: the tokenizer has no eos_token; it is needed as </s>, which frames documents")
    return tokenizer


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a text without special tokens; a special token's name in the text is ordinary text."""
    swallowed = text.startswith(" ") and _swallows_space(tokenizer)
    return _plain_ids(tokenizer, f" {text}" if swallowed else text)


def special_names(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Ids of the special tokens by their names, which a text says letter by letter."""
    added = tokenizer.added_tokens_decoder.items()
    names = {token.content: number for number, token in added if token.special}
    return names | dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of what decides the ids of a text: entries, merges, and how a text is normalised and split."""
    meaning: object = tokenizer.get_vocab()
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        whole = json.loads(backend.to_str())  # padding and truncation, which change with use, stay out
        meaning = [whole[key] for key in ("added_tokens", "normalizer", "pre_tokenizer", "model")]
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()


def decode_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], inside: bool = False) -> str:
    """The text of ids; the inverse of `encode_text`. `inside`: they go on in a text, where every space is its own."""
    text = _inner_text(tokenizer, ids)
    return text.removeprefix(" ") if adds_space(tokenizer) and not inside else text


def _plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]


def _inner_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of ids with every space: after another token a decoder removes none."""
    whole = tokenizer.decode([tokenizer.eos_token_id, *ids], clean_up_tokenization_spaces=False)
    assert isinstance(whole, str)  # one sequence, one text
    return whole.removeprefix(_eos_text(tokenizer))


@lru_cache(maxsize=8)
def _eos_text(tokenizer: PreTrainedTokenizerBase) -> str:
    text = tokenizer.decode([tokenizer.eos_token_id], clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


@lru_cache(maxsize=8)
def adds_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer puts a space in front of a text."""
    return _inner_text(tokenizer, _plain_ids(tokenizer, "a")).startswith(" ")


@lru_cache(maxsize=8)
def _swallows_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a text's own leading space is lost in the one that the tokenizer adds."""
    return _plain_ids(tokenizer, " a") == _plain_ids(tokenizer, "a")
