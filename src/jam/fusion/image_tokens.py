"""The rows of an image parent's table that are image codes, by the names of tokens.

Chameleon and Emu3 have a named token for every code in their text vocabulary. Liquid and SimpleAR append rows without
names to the text tokens (see `code_rows`). A map is an array ``[codes]``: the row of every code, each row used once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

# The group is the code; Chameleon writes its digits as the letters A .. J.
NAMES = (re.compile(r"IMGIMG([A-J]+)Z"), re.compile(r"<\|visual token (\d+)\|>"))
BEGINNINGS = ("IMGIMG", "<|visual token ")
DIGITS = str.maketrans("ABCDEFGHIJ", "0123456789")


def image_rows(config: Any, tokenizer: Any | None, codes: int, table_size: int) -> np.ndarray | None:
    """The map from the names of a parent's tokens; None if no token is named as an image code.

    Args:
        config: the config of the whole checkpoint, whose `vocabulary_map` may name tokens.
        tokenizer: the parent's tokenizer, or None.
        codes: number of codes of the image tokenizer.
        table_size: rows of the parent's table.

    Raises:
        ValueError: the map is not one-to-one (see `named_rows`), or config and tokenizer give different maps.
    """
    maps = [named_rows(vocabulary, codes, table_size) for vocabulary in vocabularies(config, tokenizer)]
    found = [rows for rows in maps if rows is not None]
    if len(found) == 2 and (differing := np.flatnonzero(found[0] != found[1]).tolist()):
        first = differing[0]
        raise _mismatch(
            f"image code {first} is row {found[0][first]} by the vocabulary_map of config.json and row "
            f"{found[1][first]} by the tokenizer"
        )
    return found[0] if found else None


def vocabularies(config: Any, tokenizer: Any | None) -> list[Mapping[str, int]]:
    """Rows by the names of their tokens: from the config, and from the tokenizer."""
    names = tokenizer.get_vocab() if tokenizer is not None else {}
    return [getattr(config, "vocabulary_map", None) or {}, names]


def image_tokens(vocabulary: Mapping[str, int]) -> list[tuple[int, int, str]]:
    """(code, row, name) of every token that is named as an image code, in order of the codes."""
    return sorted(
        (int(match[1].translate(DIGITS)), row, name)
        for name, row in vocabulary.items()
        if name.startswith(BEGINNINGS)  # few names do, and patterns are slow
        for pattern in NAMES
        if (match := pattern.fullmatch(name))
    )


def named_rows(vocabulary: Mapping[str, int], codes: int, table_size: int) -> np.ndarray | None:
    """The map from the names of tokens; None for a vocabulary without image tokens.

    Args:
        vocabulary: rows by the names of their tokens.
        codes: number of codes of the image tokenizer.
        table_size: rows of the parent's table.

    Raises:
        ValueError: a code has two rows or none, a row stands for two codes, or a code or row is out of range.
    """
    entries = image_tokens(vocabulary)
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
    return np.array([row for _, row, _ in entries])


def _mismatch(problem: str) -> ValueError:
    return ValueError(
        f"image tokens and image codes are not one-to-one: {problem}; give the config, the tokenizer and the image "
        "tokenizer of one image parent"
    )
