"""Batches from documents. No other room makes labels, states, positions or document boundaries."""

from jam.data.examples import PLAIN, Example, Objective, draw_spans, example_length, label, make_example
from jam.data.loader import Loader, plain_batches
from jam.data.packing import TENSORS, Batch, assign, collate
from jam.data.prepare import MAX_REJECTS, REJECTS, check_limit, prepare, refuse_prepared
from jam.data.records import open_sources
from jam.data.shards import Shards, ShardWriter
from jam.data.source import Source
from jam.data.split import split
from jam.data.workers import warm_up

__all__ = [
    "MAX_REJECTS",
    "PLAIN",
    "REJECTS",
    "TENSORS",
    "Batch",
    "Example",
    "Loader",
    "Objective",
    "ShardWriter",
    "Shards",
    "Source",
    "assign",
    "check_limit",
    "collate",
    "draw_spans",
    "example_length",
    "label",
    "make_example",
    "open_sources",
    "plain_batches",
    "prepare",
    "refuse_prepared",
    "split",
    "warm_up",
]
