"""Several documents in one sequence of fixed length, kept apart by their document numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch

from jam.data.examples import Example
from jam.packed import Packed

PADDING = -1
TENSORS = ("inputs", "targets", "states", "weights", "positions", "documents")


@dataclass(frozen=True)
class Batch:
    """Tensors ``[batch, context]``.

    `documents` has the number of the document of every position (-1: padding); `packed` has these numbers in the form
    that attention reads. Attention, positions and spans stay within a document. `states` are the targets' states
    (`jam.grammar.State`); `weights` are 0 where nothing is learnt.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    states: torch.Tensor
    weights: torch.Tensor
    positions: torch.Tensor
    documents: torch.Tensor
    packed: Packed

    def to(self, device: torch.device | str) -> Batch:
        return replace(
            self,
            **{name: getattr(self, name).to(device, non_blocking=True) for name in TENSORS},
            packed=self.packed.to(device),
        )

    def split(self, count: int) -> list[Batch]:
        """The rows in at most `count` batches, whose sizes differ by a row at most."""
        size = len(self.inputs)
        ends = [size * number // count for number in range(count + 1)]
        return [
            replace(
                self,
                **{name: getattr(self, name)[start:end] for name in TENSORS},
                packed=Packed.of(self.packed.rows[start:end], self.packed.context),
            )
            for start, end in pairwise(ends)
            if start < end
        ]


def assign(lengths: Sequence[int], context: int) -> list[list[int]]:
    """Indices of the documents of each sequence, by best-fit decreasing; no sequence is longer than `context`."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    room: list[int] = []
    bins: list[list[int]] = []
    for index in order:
        length = lengths[index]
        assert length <= context, f"document of {length} positions in a context of {context}: split it first"
        best = -1
        for candidate, free in enumerate(room):
            if free >= length and (best < 0 or free < room[best]):
                best = candidate
                if free == length:
                    break
        if best < 0:
            bins.append([])
            room.append(context)
            best = len(bins) - 1
        bins[best].append(index)
        room[best] -= length
    return bins


def collate(sequences: Sequence[Sequence[Example]], context: int) -> Batch:
    """The batch in which the examples of each sequence follow one another, padded to `context`."""
    shape = (len(sequences), context)
    arrays = {name: np.zeros(shape, dtype=np.int64) for name in ("inputs", "targets", "states", "positions")}
    weights = np.zeros(shape, dtype=np.float32)
    documents = np.full(shape, PADDING, dtype=np.int64)
    for row, examples in enumerate(sequences):
        start = 0
        for number, example in enumerate(examples):
            place = slice(start, start + len(example))
            arrays["inputs"][row, place] = example.inputs
            arrays["targets"][row, place] = example.targets
            arrays["states"][row, place] = example.states
            arrays["positions"][row, place] = np.arange(len(example))
            weights[row, place] = example.weights
            documents[row, place] = number
            start = place.stop
    return Batch(
        inputs=torch.from_numpy(arrays["inputs"]),
        targets=torch.from_numpy(arrays["targets"]),
        states=torch.from_numpy(arrays["states"]),
        weights=torch.from_numpy(weights),
        positions=torch.from_numpy(arrays["positions"]),
        documents=torch.from_numpy(documents),
        packed=Packed.of(tuple(tuple(map(len, examples)) for examples in sequences), context),
    )
