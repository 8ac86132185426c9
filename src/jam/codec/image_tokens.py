"""Which rows of an image parent's table are image codes.

Chameleon and Emu3 have a named token for every code in their text vocabulary; Liquid and SimpleAR append rows without
names behind the text tokens. A map is long ``[codes]``: the row of every code, each row used once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# The group is the code; Chameleon writes its digits as the letters A .. J.
NAMES = (re.compile(r"IMGIMG([A-J]+)Z"), re.compile(r"<\|visual token (\d+)\|>"))
DIGITS = str.maketrans("ABCDEFGHIJ", "0123456789")


def image_rows(config: Any, tokenizer: Any | None, codes: int, first: int | None = None) -> Tensor:
    """The map of an image parent.

    Args:
        config: its config; a `vocabulary_map` in it names tokens, else the tokenizer does.
        tokenizer: its tokenizer, or None. Rows without names begin where its ids end.
        codes: number of codes of the image tokenizer.
        first: row of code 0, where neither names nor the tokenizer tell.

    Raises:
        ValueError: the map is not one-to-one (see `named_rows`, `appended_rows`), or nothing tells where it begins.
    """
    table_size = config.get_text_config().vocab_size
    names = tokenizer.get_vocab() if tokenizer is not None else {}
    for vocabulary in (getattr(config, "vocabulary_map", None) or {}, names):
        if (named := named_rows(vocabulary, codes, table_size)) is not None:
            return named
    if first is not None:
        return appended_rows(first, codes, table_size)
    if tokenizer is None:
        raise ValueError(
            "where the image codes begin is not known: there are neither names of image tokens nor a tokenizer; copy "
            "the image parent's tokenizer files, or name the row of code 0"
        )
    return appended_rows(len(tokenizer), codes, table_size)


def named_rows(vocabulary: Mapping[str, int], codes: int, table_size: int) -> Tensor | None:
    """The map that names of tokens give; None for a vocabulary without image tokens.

    Args:
        vocabulary: rows by the names of their tokens.
        codes: number of codes of the image tokenizer.
        table_size: rows of the parent's table.

    Raises:
        ValueError: a code has two rows or none, a row stands for two codes, or one of both is out of range.
    """
    entries = sorted(
        (int(match[1].translate(DIGITS)), row, name)
        for name, row in vocabulary.items()
        for pattern in NAMES
        if (match := pattern.fullmatch(name))
    )
    if not entries:
        return None
    code_names: dict[int, str] = {}
    row_names: dict[int, str] = {}
    for code, row, name in entries:
        if code >= codes:
            raise _mismatch(f"token {name!r} is image code {code}, the image tokenizer has {codes} codes")
        if not 0 <= row < table_size:
            raise _mismatch(f"token {name!r} is row {row} of a table that has {table_size}")
        for what, number, names in (("image code", code, code_names), ("row", row, row_names)):
            if number in names:
                raise _mismatch(f"{what} {number} is both {names[number]!r} and {name!r}")
            names[number] = name
    missing = next((code for code in range(codes) if code not in code_names), None)
    if missing is not None:
        raise _mismatch(f"image code {missing} has no token; {len(code_names)} of {codes} codes have one")
    return torch.tensor([row for _, row, _ in entries])


def appended_rows(first: int, codes: int, table_size: int) -> Tensor:
    """The map of rows without names: `codes` of them, one behind the other.

    Raises:
        ValueError: the table does not hold that many rows from `first` on.
    """
    if not 0 <= first <= table_size - codes:
        raise _mismatch(f"{codes} image codes from row {first} on do not fit into a table of {table_size} rows")
    return torch.arange(first, first + codes)


def _mismatch(problem: str) -> ValueError:
    return ValueError(
        f"image tokens and image codes are not one-to-one: {problem}; give the config, the tokenizer and the image "
        "tokenizer of one image parent"
    )
