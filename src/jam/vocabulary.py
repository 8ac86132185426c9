"""The joint vocabulary: text ids, image codes and control tokens in disjoint ranges.

Joint ids are laid out as ``[text | image | <break> <eoss> <sentinel:0> ... ]``. Text ids equal the tokenizer's ids;
``</s>``, which begins and ends a document, is a text id of the tokenizer (docs/method.md, section 3).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

DEFAULT_SENTINELS = 512


@dataclass(frozen=True)
class Vocabulary:
    """Sizes of the ranges; everything else follows from them.

    Args:
        text_size: number of text ids (``len(tokenizer)``).
        image_size: number of image codes; 0 for a model without image tokens.
        eos_id: text id of ``</s>``.
        sentinels: number of CM3 mask tokens ``<sentinel:i>``.
    """

    text_size: int
    image_size: int
    eos_id: int
    sentinels: int = DEFAULT_SENTINELS

    def __post_init__(self) -> None:
        for name in ("text_size", "image_size", "sentinels"):
            if getattr(self, name) < 0:
                raise ValueError(f"vocabulary: {name} is {getattr(self, name)}; it must not be negative")
        if not 0 <= self.eos_id < self.text_size:
            raise ValueError(f"vocabulary: eos_id {self.eos_id} is outside the text ids 0..{self.text_size - 1}")
        if self.image_size and self.sentinels < 1:
            raise ValueError("vocabulary: image guidance needs at least one sentinel; got 0")

    @property
    def image_start(self) -> int:
        return self.text_size

    @property
    def control_start(self) -> int:
        return self.text_size + self.image_size

    @property
    def control_size(self) -> int:
        return 2 + self.sentinels

    @property
    def break_id(self) -> int:
        return self.control_start

    @property
    def eoss_id(self) -> int:
        return self.control_start + 1

    @property
    def sentinel_start(self) -> int:
        return self.control_start + 2

    @property
    def size(self) -> int:
        return self.control_start + self.control_size

    def sentinel_id(self, index: int) -> int:
        if not 0 <= index < self.sentinels:
            raise ValueError(f"sentinel {index} does not exist: this vocabulary has {self.sentinels}")
        return self.sentinel_start + index

    def is_text(self, token: int) -> bool:
        """Whether the id is ordinary text; ``</s>`` is not."""
        return 0 <= token < self.text_size and token != self.eos_id

    def is_image(self, token: int) -> bool:
        return self.image_start <= token < self.control_start

    def is_sentinel(self, token: int) -> bool:
        return self.sentinel_start <= token < self.size

    def to_image_ids(self, codes: Sequence[int]) -> list[int]:
        """Image codes (0 .. image_size - 1) to joint ids."""
        for code in codes:
            if not 0 <= code < self.image_size:
                raise ValueError(f"image code {code} is outside 0..{self.image_size - 1}")
        return [self.image_start + int(code) for code in codes]

    def to_codes(self, ids: Sequence[int]) -> list[int]:
        """Joint ids of image tokens back to codes; the inverse of `to_image_ids`."""
        for token in ids:
            if not self.is_image(token):
                raise ValueError(
                    f"id {token} is no image token: those are {self.image_start}..{self.control_start - 1}"
                )
        return [int(token) - self.image_start for token in ids]

    def name(self, token: int) -> str:
        """A readable name of any id, for messages."""
        if token == self.eos_id:
            return "</s>"
        if token == self.break_id:
            return "<break>"
        if token == self.eoss_id:
            return "<eoss>"
        if self.is_sentinel(token):
            return f"<sentinel:{token - self.sentinel_start}>"
        if self.is_image(token):
            return f"<image:{token - self.image_start}>"
        if self.is_text(token):
            return f"<text:{token}>"
        raise ValueError(f"id {token} is outside this vocabulary of {self.size}")

    def to_dict(self) -> dict[str, int]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, int]) -> Vocabulary:
        return cls(**values)

    @property
    def hash(self) -> str:
        """Identifies the meaning of ids; token shards and models must agree on it."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class ParentRows:
    """Where a parent's embedding table keeps the rows of the joint vocabulary.

    Args:
        text_size: joint text ids below this are the parent's rows of the same number (0: it has no text).
        image_start: the parent's row of image code 0, or None when it has no image codes.
        control_start: the parent's row of ``<break>``, followed by ``<eoss>`` and sentinels; None when it has none.
        control_size: how many control rows it has.
    """

    text_size: int
    image_start: int | None = None
    control_start: int | None = None
    control_size: int = 0

    def row_of(self, vocabulary: Vocabulary) -> list[int]:
        """The parent's row for every joint id, -1 where it has none. Raises ValueError unless it is one-to-one."""
        rows = [token if token < self.text_size else -1 for token in range(vocabulary.text_size)]
        if self.image_start is None:
            rows += [-1] * vocabulary.image_size
        else:
            rows += range(self.image_start, self.image_start + vocabulary.image_size)
        known = min(self.control_size, vocabulary.control_size) if self.control_start is not None else 0
        rows += [(self.control_start or 0) + index for index in range(known)]
        rows += [-1] * (vocabulary.control_size - known)
        present = [row for row in rows if row >= 0]
        if len(set(present)) != len(present):
            raise ValueError(f"rows of the parent are used twice by the joint vocabulary: {self} against {vocabulary}")
        return rows
