"""A source of the mixture: shards, visited document by document, and long documents piece by piece."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from jam.cm3 import Span
from jam.codec import Encoded
from jam.data.shards import Shards
from jam.data.split import UnsplittableError, cut, split_spans


class Source:
    """Shards with a weight in the mixture (share of the tokens).

    Attributes:
        left_out: reasons why documents cannot be split for this context, by number; these are not visited.

    Raises:
        ValueError: all documents are left out.
    """

    def __init__(self, shards: Shards, weight: float, context: int) -> None:
        self.shards, self.weight, self.context = shards, weight, context
        # A document of n ids has n - 1 positions: the last id is only predicted.
        self._long = np.flatnonzero(shards.lengths() > context + 1)
        self.left_out: dict[int, str] = {}
        spans = [self._spans_of(int(document)) for document in self._long]
        counts = np.ones(len(shards), dtype=np.int64)
        counts[self._long] = list(map(len, spans))
        self._ends = np.cumsum(counts)  # pieces up to the end of each document
        if not len(self):
            raise ValueError(f"{shards.folder}: no document can be used: {self.named_left_out()[0]}")
        self._spans = dict(zip(self._long.tolist(), spans, strict=True))

    def _spans_of(self, document: int) -> list[Span]:
        try:
            return split_spans(self.shards[document], self.context + 1, self.shards.vocabulary)
        except UnsplittableError as error:
            self.left_out[document] = f"{error}; the context is {self.context}"
            return []

    def named_left_out(self) -> list[str]:
        """Origin and reason of every document that is left out."""
        return [f"{self.shards.origin(document)}: {reason}" for document, reason in self.left_out.items()]

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Encoded:
        document = self.document_of(index)
        encoded = self.shards[document]
        if document not in self._spans:
            return encoded
        piece = index - (int(self._ends[document - 1]) if document else 0)
        return cut(encoded, self._spans[document][piece], self.shards.vocabulary)

    def document_of(self, index: int) -> int:
        """The number of the document that contains a piece."""
        return int(np.searchsorted(self._ends, index, side="right"))

    @cached_property
    def mean_length(self) -> float:
        """Mean number of ids of a piece, without repeated ids."""
        return float(np.delete(self.shards.lengths(), list(self.left_out)).sum() / len(self))
