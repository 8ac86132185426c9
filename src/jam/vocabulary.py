"""The joint vocabulary: text ids, image codes and control tokens in disjoint ranges.

Joint ids are laid out as ``[text | image | <break> <eoss> <sentinel:0> ... ]``. Text ids equal the tokenizer's ids;
``</s>``, which ends a document, is a text id of the tokenizer (docs/method.md, section 3). A tokenizer may name image
codes itself, as Chameleon's does: those text ids are never used, since codes have their own range.

A document begins as the text parent's tokenizer begins a text: with its BOS, with nothing, or with ``</s>`` (the
paper's parents). With a family's layout (`jam.layout`) text ids frame the pictures, ``<break>`` is never used, and a
document begins with the family's own token. A conversation begins as the text parent's chat template begins it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from jam.checked import check_fields
from jam.layout import ImageLayout, PaperLayout, PictureLayout

DEFAULT_SENTINELS = 512
MOST = 2**24  # ids of a range: beyond what any model has, and within what fits into memory


@dataclass(frozen=True)
class Vocabulary:
    """Sizes of the ranges; everything else follows from them.

    Args:
        text_size: number of text ids: 1 more than the tokenizer's highest.
        image_size: number of image codes; 0 for a model without image tokens.
        eos_id: text id of ``</s>``.
        sentinels: number of CM3 mask tokens ``<sentinel:i>``.
        text_image_ids: text ids that are names of image codes, as ranges (first, end) in order.
        layout: how pictures are framed and questions asked; None: as in the paper.
        begin: text ids that open a document; None: ``</s>``. A layout has its own.
        ends: text ids that end a document beside ``</s>``, such as the end of a turn.
        chat_template: digest of the tokenizer's chat template, by which conversations are written; None: they are
            written as the layout says.
    """

    text_size: int
    image_size: int
    eos_id: int
    sentinels: int = DEFAULT_SENTINELS
    text_image_ids: tuple[tuple[int, int], ...] = ()
    layout: ImageLayout | None = None
    begin: tuple[int, ...] | None = None
    ends: tuple[int, ...] = ()
    chat_template: str | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "text_image_ids", tuple((first, end) for first, end in self.text_image_ids))
        object.__setattr__(self, "begin", None if self.begin is None else tuple(self.begin))
        object.__setattr__(self, "ends", tuple(self.ends))
        for name in ("text_size", "image_size", "sentinels"):
            if getattr(self, name) < 0:
                raise ValueError(f"vocabulary: {name} is {getattr(self, name)}; it must not be negative")
            if getattr(self, name) > MOST:
                raise ValueError(f"vocabulary: {name} is {getattr(self, name)}; a range has {MOST} ids or fewer")
        if not 0 <= self.eos_id < self.text_size:
            raise ValueError(f"vocabulary: eos_id {self.eos_id} is outside the text ids 0..{self.text_size - 1}")
        if self.image_size and self.sentinels < 1:
            raise ValueError("vocabulary: image guidance needs at least one sentinel; got 0")
        bounds = [bound for pair in self.text_image_ids for bound in pair]
        if any(left > right for left, right in pairwise([0, *bounds, self.text_size])):
            raise ValueError(
                f"vocabulary: text_image_ids {self.text_image_ids} are no ranges in order among the text ids "
                f"0..{self.text_size - 1}"
            )
        if self.is_image_name(self.eos_id):
            raise ValueError(f"vocabulary: eos_id {self.eos_id} is the name of an image code")
        for name, ids in (("begin", self.begin or ()), ("ends", self.ends)):
            if wrong := [token for token in ids if not 0 <= token < self.text_size or self.is_image_name(token)]:
                raise ValueError(f"vocabulary: {name} has the id {wrong[0]}, which is none of the ids of text")
        if self.layout is not None and (self.begin is not None or self.chat_template is not None):
            raise ValueError(
                f"vocabulary: the layout {self.layout.name!r} says how documents begin and how questions are asked; "
                "leave begin and chat_template out"
            )
        if self.layout is not None:
            wrong = [token for token in self.layout.ids if token >= self.text_size or self.is_image_name(token)]
            wrong += {self.eos_id} & {self.layout.open_id, *self.layout.frame_ids}
            if wrong:
                raise ValueError(
                    f"vocabulary: the layout {self.layout.name!r} uses id {wrong[0]}, which is none of the ids of text"
                )

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

    @cached_property
    def pictures(self) -> PictureLayout:
        """How pictures stand in documents: the family's layout, or the paper's."""
        if self.layout is not None:
            return self.layout
        begin = (self.eos_id,) if self.begin is None else self.begin
        return PaperLayout(self.break_id, begin, self.end_ids, unconditional=(*begin, self.sentinel_start))

    @property
    def begin_ids(self) -> tuple[int, ...]:
        """What opens a document that is no conversation; nothing for some tokenizers."""
        return self.pictures.begin_ids

    @cached_property
    def end_ids(self) -> tuple[int, ...]:
        """What ends a document: ``</s>``, then the others."""
        return (self.eos_id, *(token for token in self.ends if token != self.eos_id))

    @property
    def special_ids(self) -> dict[str, Any]:
        """``bos_token_id``, where there is one, and ``eos_token_id`` as configs of `transformers` have them."""
        bos = {"bos_token_id": self.begin_ids[0]} if self.begin_ids else {}
        return bos | {"eos_token_id": list(self.end_ids) if len(self.end_ids) > 1 else self.eos_id}

    @property
    def documents_are(self) -> str:
        """The layout of documents, for a reader."""
        template = "" if self.chat_template is None else ", questions by the text parent's chat template"
        return self.pictures.name + template

    def opening_of(self, ids: Sequence[int] | np.ndarray) -> int:
        """How many ids open this document: all of `begin_ids`, or none where its chat template begins otherwise.

        Raises:
            ValueError: it begins with others.
        """
        begin = self.begin_ids
        if tuple(map(int, ids[: len(begin)])) == begin and len(ids):
            return len(begin)
        if self.chat_template is None or not len(ids):
            raise ValueError(f"a document must begin with {', '.join(map(self.name, begin)) or 'an id'}")
        return 0

    def close_of(self, ids: Sequence[int] | np.ndarray) -> int | None:
        """Where a document's source is closed, before any relocated spans; None where it is open.

        In a conversation by a chat template the id that ends a document also ends earlier turns: after an earlier turn
        more text follows, after the last one a sentinel or nothing.
        """
        tokens = np.asarray(ids, dtype=np.int64)
        start = self.opening_of(tokens)
        is_end = tokens[start:] == self.eos_id
        for token in self.ends:
            is_end |= tokens[start:] == token
        places = np.flatnonzero(is_end) + start
        if self.chat_template is not None and len(places):
            behind = np.append(tokens, self.sentinel_start)[places + 1]
            places = places[behind >= self.sentinel_start]
        return int(places[0]) if len(places) else None

    def ends_document(self, token: int) -> bool:
        """Whether the id is one that ends a document."""
        return token in self.end_ids

    @property
    def open_id(self) -> int:
        """What opens a picture."""
        return self.pictures.open_id

    @property
    def size(self) -> int:
        return self.control_start + self.control_size

    def sentinel_id(self, index: int) -> int:
        if not 0 <= index < self.sentinels:
            raise ValueError(f"sentinel {index} does not exist: this vocabulary has {self.sentinels}")
        return self.sentinel_start + index

    def is_text(self, token: int) -> bool:
        """Whether the id is ordinary text; what ends a document and names of image codes are not."""
        return 0 <= token < self.text_size and token not in self.end_ids and not self.is_image_name(token)

    def is_image_name(self, token: int) -> bool:
        """Whether the id is the tokenizer's name of an image code, which no document has."""
        return any(first <= token < end for first, end in self.text_image_ids)

    def is_image(self, token: int) -> bool:
        return self.image_start <= token < self.control_start

    def begins_image(self, token: int) -> bool:
        """Whether the id is an image code, or opens an image."""
        return self.is_image(token) or token == self.open_id

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
        if self.is_image_name(token):
            return f"<image name:{token}>"
        if 0 <= token < self.text_size:
            return f"<text:{token}>"
        raise ValueError(f"id {token} is outside this vocabulary of {self.size}")

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold; without the fields that have their defaults and did not exist in earlier versions."""
        values = asdict(self) | {
            "text_image_ids": [list(pair) for pair in self.text_image_ids],
            "layout": self.layout.to_dict() if self.layout is not None else None,
            "begin": None if self.begin is None else list(self.begin),
            "ends": list(self.ends),
        }
        left_out: dict[str, Any] = {
            "text_image_ids": [],
            "layout": None,
            "begin": None,
            "ends": [],
            "chat_template": None,
        }
        return {name: value for name, value in values.items() if name not in left_out or value != left_out[name]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Vocabulary:
        layout = values.get("layout")
        return cls(**values | {"layout": ImageLayout.from_dict(layout) if layout else None})

    @property
    def hash(self) -> str:
        """Identifies the meaning of ids; token shards and models must agree on it."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class ParentRows:
    """Where a parent's embedding table keeps the rows of the joint vocabulary.

    Args:
        text_size: joint text ids below this are the parent's rows of the same number (0: it has no text), but for names
            of image codes.
        image_start: the parent's row of image code 0, which the others follow; None when they don't, or it has none.
        control_start: the parent's row of ``<break>``, followed by ``<eoss>`` and sentinels; None when it has none.
        control_size: how many control rows it has.
        image_rows: the parent's row of every image code, where they do not follow each other.
        eos_row: the parent's row of ``</s>``, where its text ids are not the joint ones.
        made_text: text ids are read through rows that are made for them (`JointTower.text_input`), since the parent's
            own tokenizer has other ids.
    """

    text_size: int
    image_start: int | None = None
    control_start: int | None = None
    control_size: int = 0
    image_rows: list[int] | None = field(default=None, repr=False)
    eos_row: int | None = None
    made_text: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if self.control_size > MOST or self.text_size > MOST:
            raise ValueError(f"the rows of a parent are {self!r:.200}; a range has {MOST} or fewer")

    @classmethod
    def of_codes(cls, text_size: int, rows: Sequence[int]) -> ParentRows:
        """Of a parent without control rows, from the row of every image code."""
        follow = all(right == left + 1 for left, right in pairwise(rows))
        return cls(text_size, image_start=rows[0]) if follow else cls(text_size, image_rows=list(rows))

    @property
    def has_images(self) -> bool:
        return self.image_start is not None or self.image_rows is not None

    def eos_of(self, vocabulary: Vocabulary) -> int | None:
        """The parent's row of ``</s>``; None where it has none."""
        return vocabulary.eos_id if vocabulary.eos_id < self.text_size else self.eos_row

    def row_of(self, vocabulary: Vocabulary) -> list[int]:
        """The parent's row for every joint id, -1 where it has none. Raises ValueError unless it is one-to-one."""
        rows = [token if token < self.text_size else -1 for token in range(vocabulary.text_size)]
        for first, end in vocabulary.text_image_ids:
            rows[first:end] = [-1] * (end - first)
        if (eos := self.eos_of(vocabulary)) is not None:
            rows[vocabulary.eos_id] = eos
        if self.image_rows is not None:
            if len(self.image_rows) != vocabulary.image_size or min(self.image_rows) < 0:
                raise ValueError(
                    f"the parent's image_rows are {len(self.image_rows)} rows, the least {min(self.image_rows)}; the "
                    f"joint vocabulary has {vocabulary.image_size} image codes, each of which needs one"
                )
            rows += self.image_rows
        elif self.image_start is None:
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


def ranges(ids: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Ids as ranges (first, end), in order."""
    found: list[tuple[int, int]] = []
    for token in sorted(set(ids)):
        first = found.pop()[0] if found and found[-1][1] == token else token
        found.append((first, token + 1))
    return tuple(found)
