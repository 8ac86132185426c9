"""The stream of batches: mixture, order, CM3 draws and packing as pure functions of (seed, place).

A window is a fixed number of document visits. The weights, and one permutation per source and epoch, decide which
documents the window holds; (seed, window, place in the window) decides how the documents are masked and packed. A run
therefore resumes from two numbers, the window and the sequence within it, on any number of processes. Each process
plans all sequences, and makes the examples of its own sequences only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from jam.cm3 import Span
from jam.codec import Encoded
from jam.data.examples import PLAIN, Example, Objective, draw_spans, example_length, label, make_example
from jam.data.packing import Batch, assign, collate
from jam.data.source import Source
from jam.grammar import Grammar

SEQUENCES_PER_WINDOW = 256  # whose documents are packed together; more sequences leave less padding


@dataclass(frozen=True)
class Visit:
    """One document, or a piece of a document, at one place of the stream."""

    source: int
    piece: int
    spans: tuple[Span, ...]  # what is masked


Sequences = list[list[Visit]]  # the documents of each sequence of a micro-batch
Place = dict[str, int]  # window, and sequence within it
START: Place = {"window": 0, "sequence": 0}


class Loader:
    """An endless stream of batches, which a place in the stream determines (`steps`).

    Args:
        sources: the sources to mix, with weights as shares of tokens; an epoch of a source visits each document once.
        grammar: grammar that gives the states of the targets.
        context: positions of a sequence.
        batch_size: sequences of a (micro-)batch.
        objective: masking and weights.
        seed: seed of order, masks and packing.
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
        rates = [source.weight / source.mean_length for source in sources]  # visits, where weights count tokens
        self.visit_shares = [rate / sum(rates) for rate in rates]
        mean = sum(share * source.mean_length for share, source in zip(self.visit_shares, sources, strict=True))
        self.window_size = max(len(sources), round(SEQUENCES_PER_WINDOW * context / mean))
        self._permutation = lru_cache(maxsize=2 * len(sources))(self._draw_permutation)
        self._packed = lru_cache(maxsize=2)(self._pack)

    def micro_batches(self, place: Place, count: int) -> tuple[list[Sequences], Place]:
        """Plans of the next `count` micro-batches from a place, and the place after them.

        All processes of a run get equal plans; process r of R makes (`batch`) the micro-batches r, r + R, ...
        """
        window, sequence = place["window"], place["sequence"]
        rows: Sequences = []
        while len(rows) < count * self.batch_size:
            packed = self._packed(window)[sequence : sequence + count * self.batch_size - len(rows)]
            rows, sequence = rows + packed, sequence + len(packed)
            if sequence == len(self._packed(window)):
                window, sequence = window + 1, 0
        batches = [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]
        return batches, {"window": window, "sequence": sequence}

    def batch(self, sequences: Sequences) -> Batch:
        """The micro-batch of planned sequences; a pure function, for any thread or process."""
        return collate([[self._example(visit) for visit in visits] for visits in sequences], self.context)

    def steps(self, place: Place, count: int, rank: int = 0, ranks: int = 1) -> Iterator[tuple[list[Batch], Place]]:
        """For each step from a place on: this process's share of `count` micro-batches, and the place after the step.

        A thread makes the next step in the background; the batches do not depend on the thread.

        Raises:
            ValueError: `count` is below the number of processes.
        """
        if count < ranks:
            raise ValueError(f"a step has {count} micro-batches for {ranks} processes; each needs one at least")

        def make(place: Place) -> tuple[list[Batch], Place]:
            plans, after = self.micro_batches(place, count)
            return [self.batch(sequences) for sequences in plans[rank::ranks]], after

        with ThreadPoolExecutor(1, "loader") as thread:
            coming = thread.submit(make, place)
            while True:
                batches, place = coming.result()
                coming = thread.submit(make, place)
                yield batches, place

    def documents(self, place: Place, count: int) -> list[str]:
        """Folder and number of every document in the next `count` micro-batches from a place."""
        rows = [visits for batch in self.micro_batches(place, count)[0] for visits in batch]
        named = [(self.sources[visit.source], visit.piece) for visits in rows for visit in visits]
        return list(dict.fromkeys(f"{source.shards.folder} {source.document_of(piece) + 1}" for source, piece in named))

    def _draw_permutation(self, source: int, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, 1, source, epoch]).permutation(len(self.sources[source]))

    def sequences_per_epoch(self) -> float:
        """Sequences that visit each piece of the first source once, masks and padding included, by the first window."""
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
            spans = draw_spans(encoded, self.grammar.vocabulary, self.objective, rng)
            visits.append(Visit(source, piece, tuple(spans)))
            lengths.append(example_length(encoded, spans, self.grammar.vocabulary, self.context))
        bins = assign(lengths, self.context)
        order = np.random.default_rng([self.seed, 3, window]).permutation(len(bins))
        return [[visits[index] for index in bins[number]] for number in order]

    def _example(self, visit: Visit) -> Example:
        encoded = self.sources[visit.source][visit.piece]
        return label(encoded, visit.spans, self.grammar, self.objective, self.context)


def plain_batches(documents: Sequence[Encoded], grammar: Grammar, context: int, batch_size: int) -> Iterator[Batch]:
    """Packed batches of unmasked documents, each once, for measuring; all documents must fit into the context."""
    rng = np.random.default_rng(0)  # an unmasked example draws nothing that counts
    examples = [make_example(document, grammar, PLAIN, rng) for document in documents]
    bins = assign([len(example) for example in examples], context)
    for start in range(0, len(bins), batch_size):
        yield collate([[examples[index] for index in part] for part in bins[start : start + batch_size]], context)
