"""Measured parts of a document: its text without pictures, its pictures, and its text after a picture.

Shapes: T positions, N measured positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jam.grammar import Grammar, State


@dataclass(frozen=True)
class Sample:
    """A document and its measured targets.

    Args:
        inputs, targets, states: joint ids, the id after each, and the grammar's state for that id, long ``[T]``.
        at: the measured positions, long ``[N]``.
    """

    inputs: Tensor
    targets: Tensor
    states: Tensor
    at: Tensor


def text_of(ids: Sequence[int], grammar: Grammar, start: int = 1) -> Sample | None:
    """A document without its pictures; None if it has no text.

    Args:
        start: index in `ids` of the first measured target (`Encoded.main_start`).
    """
    array, vocabulary = np.asarray(ids), grammar.vocabulary
    kept = grammar.places_outside_pictures(array)
    measured = np.flatnonzero(kept >= start)
    measured = measured[measured > 0]  # nothing predicts a document's first id
    if np.isin(array[kept[measured]], vocabulary.end_ids).all():
        return None
    return _sample(array[kept], grammar, measured - 1)


def pictures_of(ids: Sequence[int], grammar: Grammar, start: int = 1) -> Sample | None:
    """The image codes of a document, after everything before them; None if the document has no picture."""
    codes = np.flatnonzero(grammar.state_array(ids) == State.IMAGE)
    measured = codes[codes >= max(1, start)]
    return _sample(np.asarray(ids), grammar, measured - 1) if len(measured) else None


def text_behind_pictures(ids: Sequence[int], grammar: Grammar, start: int = 1) -> tuple[Sample, Sample] | None:
    """The text after a document's first picture, with all pictures and without: equal targets in the same order.

    None if there is no such text. The id directly after a picture (`<break>`) is no text.
    """
    array, states = np.asarray(ids), grammar.state_array(ids)
    pictures = np.flatnonzero(states == State.IMAGE)
    kept = grammar.places_outside_pictures(array)
    first = max(pictures[0], start - 1) if len(pictures) else len(array)
    without = np.flatnonzero((kept > first) & (states[kept] == State.TEXT))
    without = without[without > 0]  # nothing predicts the first id without the pictures
    behind = kept[without]
    if not len(behind):
        return None
    return _sample(array, grammar, behind - 1), _sample(array[kept], grammar, without - 1)


def _sample(ids: np.ndarray, grammar: Grammar, at: np.ndarray) -> Sample:
    tensor = torch.from_numpy(ids.astype(np.int64))
    states = torch.from_numpy(grammar.state_array(ids))
    return Sample(tensor[:-1], tensor[1:], states[1:], torch.from_numpy(at))
