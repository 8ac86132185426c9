"""The stream of batches: mixture, order, CM3 draws and packing as pure functions of (seed, window).

A window is a fixed number of document visits. Which documents it holds follows from the weights and from one
permutation a source and epoch; how they are masked and packed from (seed, window, place in the window). A run therefore
resumes from two numbers, the window and the sequence within it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from jam.codec import Encoded
from jam.data.examples import PLAIN, Example, Objective, make_example
from jam.data.packing import Batch, assign, collate
from jam.data.shards import Shards
from jam.data.split import split
from jam.grammar import Grammar

SEQUENCES_PER_WINDOW = 64


@dataclass
class Source:
    """Shards with a weight in the mixture (share of the tokens). Long documents are visited piece by piece."""

    shards: Shards
    weight: float
    context: int
    pieces: list[tuple[int, int]] = field(init=False)  # document, piece

    def __post_init__(self) -> None:
        self._split = lru_cache(maxsize=16)(self._pieces_of)
        self.pieces = []
        for document, length in enumerate(self.shards.lengths()):
            count = 1 if length <= self.context + 1 else len(self._split(document))
            self.pieces += [(document, piece) for piece in range(count)]

    def _pieces_of(self, document: int) -> list[Encoded]:
        try:  # a document of n ids has n - 1 positions: the last id is only predicted
            return split(self.shards[document], self.context + 1, self.shards.vocabulary)
        except ValueError as error:
            raise ValueError(
                f"{self.shards.folder}, document {document + 1}: {error}; train on a longer context or leave it out"
            ) from None

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, index: int) -> Encoded:
        document, piece = self.pieces[index]
        return self._split(document)[piece]

    @property
    def mean_length(self) -> float:
        """Ids of a piece, without what is repeated in each."""
        lengths = self.shards.lengths()
        return float(lengths.sum() / len(self))


class Loader:
    """An endless iterator of `Batch`; `state` and `load_state` resume it exactly.

    Args:
        sources: what to mix, by shares of tokens; each document of a source is visited once an epoch of that source.
        grammar: gives the states of the targets.
        context: positions of a sequence.
        batch_size: sequences of a batch.
        objective: masking and weights.
        seed: of order, masks and packing.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        grammar: Grammar,
        context: int,
        batch_size: int,
        objective: Objective,
        seed: int,
    ) -> None:
        if not sources or min(source.weight for source in sources) <= 0:
            raise ValueError(f"weights of sources must be positive; got {[source.weight for source in sources]}")
        self.sources, self.grammar, self.objective = list(sources), grammar, objective
        self.context, self.batch_size, self.seed = context, batch_size, seed
        rates = [source.weight / source.mean_length for source in sources]  # of visits: weights count tokens
        self.visit_shares = [rate / sum(rates) for rate in rates]
        mean = sum(share * source.mean_length for share, source in zip(self.visit_shares, sources, strict=True))
        self.window_size = max(len(sources), round(SEQUENCES_PER_WINDOW * context / mean))
        self.window, self.sequence = 0, 0
        self._sequences: list[list[Example]] | None = None
        self._permutation = lru_cache(maxsize=2 * len(sources))(self._draw_permutation)

    def state(self) -> dict[str, int]:
        """The place in the stream: all that a resumed run needs."""
        return {"window": self.window, "sequence": self.sequence}

    def load_state(self, state: dict[str, int]) -> None:
        self.window, self.sequence, self._sequences = state["window"], state["sequence"], None

    def __iter__(self) -> Loader:
        return self

    def __next__(self) -> Batch:
        rows: list[list[Example]] = []
        while len(rows) < self.batch_size:
            if self._sequences is None:
                self._sequences = self._pack(self.window)
            if self.sequence >= len(self._sequences):
                self.window, self.sequence, self._sequences = self.window + 1, 0, None
                continue
            rows.append(self._sequences[self.sequence])
            self.sequence += 1
        return collate(rows, self.context)

    def _draw_permutation(self, source: int, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, 1, source, epoch]).permutation(len(self.sources[source]))

    def sequences_per_epoch(self) -> float:
        """Sequences that visit each piece of the first source once, masks and padding included; of the first window."""
        visits_per_epoch = len(self.sources[0]) / self.visit_shares[0]
        return len(self._pack(0)) * visits_per_epoch / len(self.documents_of(0))

    def documents_of(self, window: int) -> list[tuple[int, int]]:
        """(source, piece) of every visit of a window."""
        visits = []
        for source, share in enumerate(self.visit_shares):
            first, last = (round(share * self.window_size * w) for w in (window, window + 1))
            for visit in range(first, last):
                epoch, place = divmod(visit, len(self.sources[source]))
                visits.append((source, int(self._permutation(source, epoch)[place])))
        return visits

    def _pack(self, window: int) -> list[list[Example]]:
        examples = [
            make_example(
                self.sources[source][piece],
                self.grammar,
                self.objective,
                np.random.default_rng([self.seed, 2, window, place]),
                self.context,
            )
            for place, (source, piece) in enumerate(self.documents_of(window))
        ]
        bins = assign([len(example) for example in examples], self.context)
        order = np.random.default_rng([self.seed, 3, window]).permutation(len(bins))
        return [[examples[index] for index in bins[number]] for number in order]


def plain_batches(documents: Sequence[Encoded], grammar: Grammar, context: int, batch_size: int) -> Iterator[Batch]:
    """Unmasked documents in packed batches, each once, for measuring; all must fit into the context."""
    rng = np.random.default_rng(0)  # an unmasked example draws nothing that counts
    examples = [make_example(document, grammar, PLAIN, rng) for document in documents]
    bins = assign([len(example) for example in examples], context)
    for start in range(0, len(bins), batch_size):
        yield collate([[examples[index] for index in part] for part in bins[start : start + batch_size]], context)
