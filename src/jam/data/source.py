"""One source of the mixture: shards, visited document by document, long ones piece by piece."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from jam.cm3 import Span
from jam.codec import Encoded
from jam.data.shards import Shards
from jam.data.split import cut, split_spans


class Source:
    """Shards with a weight in the mixture (share of the tokens).

    Raises:
        ValueError: a document cannot be split for this context (it is named).
    """

    def __init__(self, shards: Shards, weight: float, context: int) -> None:
        self.shards, self.weight, self.context = shards, weight, context
        # A document of n ids has n - 1 positions: the last id is only predicted.
        self._long = np.flatnonzero(shards.lengths() > context + 1)
        spans = [self._spans_of(int(document)) for document in self._long]
        counts = np.ones(len(shards), dtype=np.int64)
        counts[self._long] = [len(one) for one in spans]
        self._ends = np.cumsum(counts)  # pieces up to the end of each document
        self._spans = dict(zip(self._long.tolist(), spans, strict=True))

    def _spans_of(self, document: int) -> list[Span]:
        try:
            return split_spans(self.shards[document], self.context + 1, self.shards.vocabulary)
        except ValueError as error:
            raise ValueError(
                f"{self.shards.folder}, document {document + 1}: {error}, the context is {self.context}; "
                "train on a longer context or leave it out"
            ) from None

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
        """The document that a piece is of."""
        return int(np.searchsorted(self._ends, index, side="right"))

    @cached_property
    def mean_length(self) -> float:
        """Ids of a piece, without what is repeated in each."""
        return float(self.shards.lengths().sum() / len(self))
