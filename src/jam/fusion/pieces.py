"""The text parent's tokens as pieces of the image parent's tokenizer (docs/unequal-parents.md).

A token stands for bytes. The image tower reads the token through its own token of equal bytes, else through the mean of
the tokens into which its own tokenizer cuts the string. Bytes that are no whole UTF-8 are cut into single bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from tokenizers import Tokenizer, pre_tokenizers

from jam.fusion.image_tokens import image_tokens
from jam.fusion.parents import Parent
from jam.fusion.tokenizers import names_of, spec_of

ROLES = ("eos_token_id", "bos_token_id", "pad_token_id")  # the first role of a token counts
SPACE = "\u2581"
BATCH = 8192  # strings cut at once


@dataclass(frozen=True)
class Pieces:
    """Rows of the image parent that stand for each text id.

    Args:
        starts: array ``[text ids + 1]``; the rows of id i are ``rows[starts[i] : starts[i + 1]]``, which may be none.
        rows: array, the rows of all ids in order.
        exact: number of ids with one token of equal string or role.
    """

    starts: np.ndarray
    rows: np.ndarray
    exact: int

    @property
    def absent(self) -> int:
        return int((np.diff(self.starts) == 0).sum())

    @property
    def cut(self) -> int:
        return len(self.starts) - 1 - self.absent - self.exact

    def counts(self) -> dict[str, int]:
        return {"exact": self.exact, "by_pieces": self.cut, "not_at_all": self.absent}


def find_pieces(text: Parent, image: Parent, text_size: int) -> Pieces:
    """Pieces of every id below `text_size`.

    Raises:
        ValueError: a tokenizer has no tokenizer.json, or is neither BPE nor Unigram.
    """
    ours, theirs = Meanings(text), Meanings(image)
    roles = {getattr(text.tokenizer, role): getattr(image.tokenizer, role) for role in reversed(ROLES)}
    # The last of several tokens of equal bytes counts: byte tokens come first.
    tokens = sorted(theirs.bytes_of.items(), key=lambda item: (item[0] not in theirs.byte_tokens, -item[0]))
    token_of = {meant: token for token, meant in tokens}
    found: dict[int, list[int]] = {}
    strings: dict[int, str] = {}
    for token in range(text_size):
        if token in roles:
            found[token] = [roles[token]] if roles[token] is not None else []
            continue
        meant = ours.bytes_of.get(token)
        if not meant:
            continue
        if meant in token_of:
            found[token] = [token_of[meant]]
            continue
        try:
            strings[token] = meant.decode()
        except UnicodeDecodeError:
            single = [token_of.get(bytes([byte])) for byte in meant]
            found[token] = [row for row in single if row is not None] if None not in single else []
    exact = sum(len(rows) == 1 for rows in found.values())
    found |= dict(zip(strings, theirs.cut(list(strings.values())), strict=True))
    rows = [found.get(token, []) for token in range(text_size)]
    lengths = np.array([0, *map(len, rows)], dtype=np.int64)
    return Pieces(lengths.cumsum(), np.array([row for cut in rows for row in cut], dtype=np.int64), exact)


class Meanings:
    """The bytes that each token of a parent stands for.

    Special tokens and names of image codes stand for no bytes.

    Attributes:
        bytes_of: bytes by id.
        byte_tokens: ids of tokens like ``<0x0A>``.
    """

    def __init__(self, parent: Parent) -> None:
        if parent.pipeline is None:
            raise ValueError(
                f"the {parent.role} parent {parent.folder} has no tokenizer.json, and the parents' tokenizers differ; "
                "save its tokenizer as a fast one beside it"
            )
        self.spec = spec_of(parent.pipeline)
        model = self.spec["model"]
        affixes = model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
        if model["type"] not in ("BPE", "Unigram") or affixes:
            raise ValueError(
                f"the tokenizer of the {parent.role} parent {parent.folder} is a {model['type']}"
                f"{f' that marks words by {affixes!r}' if affixes else ''}; parents with unlike tokenizers need BPE or "
                "Unigram ones without such marks, whose tokens stand for bytes"
            )
        pipeline = json.dumps([self.spec[part] for part in ("normalizer", "pre_tokenizer", "decoder")])
        self._marks_spaces = json.dumps(SPACE)[1:-1] in pipeline
        has_bytes = model.get("byte_fallback") or '"ByteFallback"' in pipeline
        letters = byte_letters() if '"ByteLevel"' in pipeline else None
        ids = names_of(parent.pipeline)
        added = {entry["content"]: entry["special"] for entry in self.spec["added_tokens"]}
        self._named = {row for _, row, _ in image_tokens(ids)}
        special = {ids[token] for token, is_special in added.items() if is_special}
        if parent.tokenizer is not None:
            special |= set(parent.tokenizer.all_special_ids)
        byte_names = (f"<0x{byte:02X}>" for byte in range(256)) if has_bytes else ()
        self.byte_tokens = {ids[name] for name in byte_names if name in ids}
        self.bytes_of = {
            row: self._bytes(token, row, letters if token not in added else None)
            for token, row in ids.items()
            if row not in special and row not in self._named
        }

    def _bytes(self, token: str, row: int, letters: dict[str, int] | None) -> bytes:
        if row in self.byte_tokens:
            return bytes([int(token[3:5], 16)])
        if letters is not None and all(letter in letters for letter in token):
            return bytes(letters[letter] for letter in token)
        return (token.replace(SPACE, " ") if self._marks_spaces else token).encode()

    def cut(self, strings: list[str]) -> list[list[int]]:
        """Ids of the pieces of each string; empty if the tokenizer does not know a part of the string."""
        result = []
        for start in range(0, len(strings), BATCH):
            batch = strings[start : start + BATCH]
            encode = self._cutter.encode_batch_fast if self._keeps_all else self._cutter.encode_batch
            for string, cut in zip(batch, encode(batch, add_special_tokens=False), strict=True):
                ids = cut.ids
                known = self._unknown.isdisjoint(ids) and (self._keeps_all or covers(cut.offsets, len(string)))
                result.append(ids if known else [])
        return result

    @cached_property
    def _keeps_all(self) -> bool:
        """True if no part of a text can be lost: nothing changes the text, and every byte has a token."""
        steps = [self.spec["pre_tokenizer"] or {}]
        for step in steps:
            steps += step.get("pretokenizers", [])
        kinds = {step.get("type") for step in steps}
        removes = kinds - {"Sequence", "ByteLevel", "Split", "Digits"} or any(
            step.get("behavior") == "Removed" for step in steps
        )
        complete = "ByteLevel" in kinds and byte_letters().keys() <= names_of(self._cutter).keys()
        return complete and not removes and self.spec["normalizer"] is None

    @cached_property
    def _unknown(self) -> set[int | None]:
        """Ids that stand for no text: the id of unknown letters, and names of image codes."""
        model = self.spec["model"]
        unknown = self._cutter.token_to_id(model["unk_token"]) if model.get("unk_token") else model.get("unk_id")
        return {unknown, *self._named}

    @cached_property
    def _cutter(self) -> Tokenizer:
        """The pipeline without the space in front of a text; names of special tokens are cut like other text."""
        kept = {part: without_prefix(self.spec[part]) for part in ("normalizer", "pre_tokenizer")}
        nothing = dict.fromkeys(("post_processor", "truncation", "padding"))
        cutter = Tokenizer.from_str(json.dumps(self.spec | kept | nothing))
        cutter.encode_special_tokens = True
        return cutter


def covers(spans: list[tuple[int, int]], length: int) -> bool:
    """True if spans (first, end), in any order, cover 0 to `length`."""
    reached = 0
    for first, end in sorted(spans):
        if first > reached:
            return False
        if end > reached:
            reached = end
    return reached >= length


def without_prefix(step: dict[str, Any] | None) -> dict[str, Any] | None:
    """A normalizer or pre-tokenizer of tokenizer.json, changed to add no space in front of a text."""
    if step is None or step["type"] == "Prepend":
        return None
    if step["type"] == "Sequence":
        parts = next(key for key in ("normalizers", "pretokenizers") if key in step)
        return step | {parts: [kept for part in step[parts] if (kept := without_prefix(part)) is not None]}
    if step["type"] == "Metaspace":
        return step | {"prepend_scheme": "never"}
    return step | {"add_prefix_space": False} if "add_prefix_space" in step else step


def byte_letters() -> dict[str, int]:
    """Bytes by the letters of byte-level tokens: a letter's own byte, or the next byte that is no letter."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    own = {letter: ord(letter) for letter in alphabet if ord(letter) < 256}
    unused = (byte for byte in range(256) if chr(byte) not in own)
    return own | dict(zip(sorted(alphabet - own.keys()), unused, strict=True))
