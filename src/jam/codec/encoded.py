"""A document as ids, in segments: what they are of, and what their loss weighs.

Whether an id is of a text or of a picture is no part of it: that follows from the ids (`jam.grammar`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from jam.vocabulary import Vocabulary

Role = Literal["opening", "retrieved", "question", "answer", "document"]


@dataclass(frozen=True)
class Segment:
    """Ids of one role, from the end of the segment before on.

    Args:
        end: index after the last of them.
        role: "opening": the ids with which any document begins; "retrieved": another document, in front; "question":
            what stands before an answer, written by users, the system and the template; "answer"; "document": what
            nobody asked for.
        weight: of the loss of predicting each of them; 0: they are only read.
    """

    end: int
    role: Role
    weight: float = 0.0


@dataclass(frozen=True)
class Encoded:
    """One document as ids. Its last segment is the main part: the last answer, or a document after its opening."""

    ids: list[int]
    segments: tuple[Segment, ...]

    @classmethod
    def of(
        cls,
        ids: list[int],
        vocabulary: Vocabulary,
        start: int | None = None,
        earlier: Sequence[Sequence[int]] = (),
        earlier_weight: float = 0.0,
    ) -> Encoded:
        """A document with nothing in front, whose main part is learnt.

        Args:
            start: where that begins; None, or no more than the document's opening: nobody asked.
            earlier: half-open spans of the answers before.
            earlier_weight: of their loss.
        """
        opening = vocabulary.opening_of(ids)
        start = opening if start is None else start
        if start <= opening:
            return cls(ids, (Segment(start, "opening"), Segment(len(ids), "document", 1.0)))
        segments: list[Segment] = []
        for left, right in earlier:
            segments += [Segment(left, "question"), Segment(right, "answer", earlier_weight)]
        return cls(ids, (*segments, Segment(start, "question"), Segment(len(ids), "answer", 1.0)))

    @property
    def main_start(self) -> int:
        """Index of the first id of the main part, which is masked, split and measured; what stands before is not."""
        return self.segments[-2].end

    @property
    def is_asked(self) -> bool:
        """Whether the main part is an answer."""
        return self.segments[-1].role == "answer"

    def earlier_answers(self) -> list[tuple[int, int]]:
        """Half-open spans of the answers before the main part."""
        return [(left.end, right.end) for left, right in pairwise(self.segments[:-1]) if right.role == "answer"]

    def weights(self) -> np.ndarray:
        """Weight of the loss of predicting each id, float32 ``[len(ids)]``."""
        lengths = np.diff([0, *(segment.end for segment in self.segments)])
        return np.repeat(np.array([segment.weight for segment in self.segments], dtype=np.float32), lengths)

    def behind(
        self, documents: Sequence[Encoded], vocabulary: Vocabulary, weight: float, parting: Sequence[int]
    ) -> Encoded:
        """This document with others in front, each without its opening and its end, of the role "retrieved".

        Args:
            weight: of their loss.
            parting: ids after each of them; in the paper's layout `<break>` alone parts a picture from what follows.

        Raises:
            ValueError: one of them is a conversation.
        """
        if not documents:
            return self
        ids = list(vocabulary.begin_ids)
        segments = [Segment(len(ids), "opening")]
        for document in documents:
            if document.is_asked:
                raise ValueError("a conversation cannot stand in front of another document; give documents of content")
            ids += document.ids[document.main_start : len(document.ids) - vocabulary.ends_document(document.ids[-1])]
            in_image = any(map(vocabulary.is_image, ids[-1:]))
            ids += vocabulary.pictures.separator if in_image else parting
            segments.append(Segment(len(ids), "retrieved", weight))
        opening = vocabulary.opening_of(self.ids)
        own = [segment for segment in self.segments if segment.role != "opening"]
        segments += [replace(segment, end=segment.end + len(ids) - opening) for segment in own]
        return Encoded([*ids, *self.ids[opening:]], tuple(segments))
