"""Parents' tokenizers: the meaning of ids, and the difference of two tokenizers.

`AutoTokenizer` may build different pipelines from one tokenizer.json, by the `model_type` beside it; so the file itself
counts, if there is one.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from operator import itemgetter
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from jam.checkpoints.folders import tokenizer_folder
from jam.files import reading
from jam.fusion.file_tokenizer import FileTokenizer

PROBES = ("Hello, world! It's 12,345.67 today.", "  two spaces\n\nand new lines\t", "naïve café, Übergröße, 日本語 🙂")


@dataclass(frozen=True)
class TextTokens:
    """The ids of a tokenizer.

    Args:
        ids: id of every token, with added tokens.
        added: added tokens, which the tokenizer's model lacks.
        merges: merges of a BPE, in order; none for other models.
        encode: from a text to ids, without special tokens.
    """

    ids: dict[str, int]
    added: frozenset[str]
    merges: list[Any]
    encode: Callable[[str], list[int]]

    @classmethod
    def of_pipeline(cls, pipeline: Tokenizer) -> TextTokens:
        spec = spec_of(pipeline)
        return cls(
            names_of(pipeline),
            frozenset(entry["content"] for entry in spec["added_tokens"]),
            spec["model"].get("merges", []),
            lambda text: pipeline.encode(text, add_special_tokens=False).ids,
        )

    @classmethod
    def of_tokenizer(cls, tokenizer: Any) -> TextTokens:
        """The ids of a tokenizer of `transformers` without tokenizer.json."""
        encode = lambda text: tokenizer(text, add_special_tokens=False).input_ids
        return cls(tokenizer.get_vocab(), frozenset(tokenizer.get_added_vocab()), [], encode)

    @property
    def size(self) -> int:
        return max(self.ids.values(), default=-1) + 1


def find_tokenizer(folder: Path) -> Any | None:
    """The tokenizer of a checkpoint folder; None if there is none.

    Raises:
        ValueError: the tokenizer cannot be read, or needs code of its own, which is never run.
    """
    place = tokenizer_folder(folder)
    if place is None:
        return None
    with reading(f"the tokenizer {place}"):
        if (tokenizer := FileTokenizer.of(place)) is not None:
            return tokenizer
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=False)


@lru_cache(maxsize=2)
def spec_of(pipeline: Tokenizer) -> dict[str, Any]:
    """The pipeline as JSON; a large vocabulary takes a second."""
    return json.loads(pipeline.to_str())


@lru_cache(maxsize=2)
def names_of(pipeline: Tokenizer) -> dict[str, int]:
    """Ids by the names of all tokens."""
    return pipeline.get_vocab(with_added_tokens=True)


def find_pipeline(folder: Path) -> Tokenizer | None:
    """The tokenizer.json of a checkpoint folder; None if there is none."""
    place = tokenizer_folder(folder)
    path = place / "tokenizer.json" if place else None
    if path is None or not path.is_file():
        return None
    with reading(path):
        return Tokenizer.from_file(str(path))


def difference(text: TextTokens, image: TextTokens) -> str | None:
    """A difference between two tokenizers, in words; None if they read every text alike.

    Added tokens after the highest id of the shorter tokenizer are no difference.
    """
    shared = min(text.size, image.size)
    differing = {
        entry
        for left, right in ((text, image), (image, text))
        for entry in left.ids.items()
        if right.ids.get(entry[0]) != entry[1] and (entry[1] < shared or entry[0] not in left.added)
    }
    if differing:
        first = heapq.nsmallest(3, differing, key=itemgetter(1, 0))
        shown = "; ".join(f"{token!r}: text {text.ids.get(token)}, image {image.ids.get(token)}" for token, _ in first)
        return f"text has {len(text.ids)} entries, image {len(image.ids)}; first differences: {shown}"
    # Tokenizers with equal entries may have different merges, which a few strings would not show.
    if text.merges != image.merges:
        pairs = enumerate(zip_longest(text.merges, image.merges))
        number, ours, theirs = next((number, *merges) for number, merges in pairs if merges[0] != merges[1])
        return f"merge {number} is {ours} for text and {theirs} for image"
    for probe in PROBES:
        ours, theirs = text.encode(probe), image.encode(probe)
        if ours != theirs:
            return f"{probe!r} is {ours[:12]} for text and {theirs[:12]} for image"
    return None
