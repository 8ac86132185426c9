"""Encoded documents of a small vocabulary, for tests of the data path."""

from __future__ import annotations

import numpy as np

from jam.codec import Encoded
from jam.data import (
    ShardWriter,
)
from jam.grammar import Grammar
from jam.vocabulary import Vocabulary

V = Vocabulary(text_size=50, image_size=30, eos_id=0, sentinels=8)
N = 4
G = Grammar(V, (2, 2))
IMAGE = V.to_image_ids([3, 1, 4, 1])
CAPTION = Encoded.of([0, 5, 6, 7, 8, V.break_id, *IMAGE, 0], V)
CONVERSATION = Encoded.of([0, 5, 6, 7, V.break_id, *IMAGE, V.break_id, 9, 20, 21, 22, V.break_id, *IMAGE, 0], V, 11)


def random_encoded(rng: np.random.Generator, most: int = 4) -> Encoded:
    """Texts and pictures; half of them with a question."""
    ids = [0, *rng.integers(1, 50, 3)]
    start = len(ids) if rng.random() < 0.5 else 1
    for number in range(int(rng.integers(1, most + 1))):
        text = rng.integers(1, 50, rng.integers(0 if number else 1, 9))
        ids += [*text, V.break_id, *rng.integers(V.image_start, V.control_start, N), V.break_id]
    return Encoded.of([int(token) for token in [*ids[:-1], 0]], V, start)


def write_shards(folder, documents, vocabulary=V):
    folder.mkdir()
    with ShardWriter(folder, vocabulary) as writer:
        for document in documents:
            writer.add(document)
    return writer.finish()
