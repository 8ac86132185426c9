"""The stream of batches: mixture, order, CM3 draws and packing as pure functions of (seed, place).

A window is a fixed number of document visits. Which documents it holds follows from the weights and from one
permutation a source and epoch; how they are masked and packed from (seed, window, place in the window). A run therefore
resumes from two numbers, the window and the sequence within it, on any number of processes: each of them finds out what
the sequences hold, and makes the examples of its own ones only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from jam.cm3 import Span
from jam.codec import Encoded
from jam.data.examples import PLAIN, Example, Objective, draw_masked, example_length, label, make_example
from jam.data.packing import Batch, assign, collate
from jam.data.source import Source
from jam.grammar import Grammar

SEQUENCES_PER_WINDOW = 256  # documents of so many sequences are packed together: more leave less padding


@dataclass(frozen=True)
class Visit:
    """One document, or piece of one, as it comes in one place of the stream."""

    source: int
    piece: int
    spans: tuple[Span, ...]  # what is masked


Sequences = list[list[Visit]]  # the documents of each sequence of a micro-batch
Place = dict[str, int]  # window, and sequence within it
START: Place = {"window": 0, "sequence": 0}


class Loader:
    """An endless stream of batches, the same from a place on whoever begins there (`steps`).

    Args:
        sources: what to mix, by shares of tokens; each document of a source is visited once an epoch of that source.
        grammar: gives the states of the targets.
        context: positions of a sequence.
        batch_size: sequences of a (micro-)batch.
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
        self._permutation = lru_cache(maxsize=2 * len(sources))(self._draw_permutation)
        self._packed = lru_cache(maxsize=2)(self._pack)

    def micro_batches(self, place: Place, count: int) -> tuple[list[Sequences], Place]:
        """The next `count` micro-batches from a place, not yet made, and the place behind them.

        All processes of a run are given the same ones; process r of R makes (`batch`) numbers r, r + R, ... of them.
        """
        window, sequence = place["window"], place["sequence"]
        rows: Sequences = []
        while len(rows) < count * self.batch_size:
            there = self._packed(window)[sequence : sequence + count * self.batch_size - len(rows)]
            rows, sequence = rows + there, sequence + len(there)
            if sequence == len(self._packed(window)):
                window, sequence = window + 1, 0
        batches = [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]
        return batches, {"window": window, "sequence": sequence}

    def batch(self, sequences: Sequences) -> Batch:
        """Make a micro-batch; a pure function, for any thread or process."""
        return collate([[self._example(visit) for visit in visits] for visits in sequences], self.context)

    def steps(self, place: Place, count: int, rank: int = 0, ranks: int = 1) -> Iterator[tuple[list[Batch], Place]]:
        """From a place on, step by step: this process's of the step's `count` micro-batches, and the place behind them.

        The next step is made by a thread while one is taken; its batches are the same without.

        Raises:
            ValueError: there are fewer micro-batches than processes.
        """
        if count < ranks:
            raise ValueError(f"a step has {count} micro-batches for {ranks} processes; each needs one at least")

        def make(place: Place) -> tuple[list[Batch], Place]:
            batches, behind = self.micro_batches(place, count)
            return [self.batch(sequences) for sequences in batches[rank::ranks]], behind

        with ThreadPoolExecutor(1, "loader") as thread:
            coming = thread.submit(make, place)
            while True:
                made, place = coming.result()
                coming = thread.submit(make, place)
                yield made, place

    def documents(self, place: Place, count: int) -> list[str]:
        """Folder and number of every document in the next `count` micro-batches from a place."""
        rows = [visits for batch in self.micro_batches(place, count)[0] for visits in batch]
        named = [(self.sources[visit.source], visit.piece) for visits in rows for visit in visits]
        return list(dict.fromkeys(f"{source.shards.folder} {source.document_of(piece) + 1}" for source, piece in named))

    def _draw_permutation(self, source: int, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, 1, source, epoch]).permutation(len(self.sources[source]))

    def sequences_per_epoch(self) -> float:
        """Sequences that visit each piece of the first source once, masks and padding included; of the first window."""
        visits_per_epoch = len(self.sources[0]) / self.visit_shares[0]
        return len(self._packed(0)) * visits_per_epoch / len(self.documents_of(0))

    def documents_of(self, window: int) -> list[tuple[int, int]]:
        """(source, piece) of every visit of a window."""
        visits = []
        for source, share in enumerate(self.visit_shares):
            first, last = (round(share * self.window_size * w) for w in (window, window + 1))
            for visit in range(first, last):
                epoch, place = divmod(visit, len(self.sources[source]))
                visits.append((source, int(self._permutation(source, epoch)[place])))
        return visits

    def _pack(self, window: int) -> Sequences:
        visits, lengths = [], []
        for place, (source, piece) in enumerate(self.documents_of(window)):
            encoded, rng = self.sources[source][piece], np.random.default_rng([self.seed, 2, window, place])
            drawn, spans = draw_masked(encoded, self.grammar.vocabulary, self.objective, rng)
            assert drawn is encoded, "nothing stands in front of a source's documents"
            visits.append(Visit(source, piece, tuple(spans)))
            lengths.append(example_length(encoded, spans, self.grammar.vocabulary, self.context))
        bins = assign(lengths, self.context)
        order = np.random.default_rng([self.seed, 3, window]).permutation(len(bins))
        return [[visits[index] for index in bins[number]] for number in order]

    def _example(self, visit: Visit) -> Example:
        encoded = self.sources[visit.source][visit.piece]
        return label(encoded, visit.spans, self.grammar, self.objective, self.context)


def plain_batches(documents: Sequence[Encoded], grammar: Grammar, context: int, batch_size: int) -> Iterator[Batch]:
    """Unmasked documents in packed batches, each once, for measuring; all must fit into the context."""
    rng = np.random.default_rng(0)  # an unmasked example draws nothing that counts
    examples = [make_example(document, grammar, PLAIN, rng) for document in documents]
    bins = assign([len(example) for example in examples], context)
    for start in range(0, len(bins), batch_size):
        yield collate([[examples[index] for index in part] for part in bins[start : start + batch_size]], context)
