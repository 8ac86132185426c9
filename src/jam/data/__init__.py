"""From documents to batches; the only place that makes labels, states, positions and document boundaries."""

from jam.data.examples import PLAIN, Example, Objective, make_example
from jam.data.loader import Loader, Source, plain_batches
from jam.data.packing import TENSORS, Batch, assign, collate
from jam.data.prepare import prepare
from jam.data.shards import Shards, ShardWriter
from jam.data.split import split

__all__ = [
    "PLAIN",
    "TENSORS",
    "Batch",
    "Example",
    "Loader",
    "Objective",
    "ShardWriter",
    "Shards",
    "Source",
    "assign",
    "collate",
    "make_example",
    "plain_batches",
    "prepare",
    "split",
]
