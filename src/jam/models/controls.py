"""Checks of a tower's tables for the joint ids, and the control tokens for which the parent has no rows."""

from __future__ import annotations

from collections.abc import Sequence

from jam.vocabulary import ParentRows, Vocabulary


def missing_controls(vocabulary: Vocabulary, row_of: Sequence[int]) -> list[int]:
    """Ids that every tower must write and for which this parent has no row: ends of documents, ``<break>``, ``<eoss>``
    and sentinels.

    These ids own, in this order, the rows ``absent_input[1:]`` and ``absent_output`` of a `JointTower`.

    Args:
        row_of: see `ParentRows.row_of`.
    """
    controls = [*vocabulary.end_ids, *range(vocabulary.control_start, vocabulary.size)]
    return [token for token in controls if row_of[token] < 0]


def check_rows(row_of: Sequence[int], table_size: int, owner: str) -> None:
    """Raise ValueError if a joint id has a row beyond the parent's tables of `table_size` rows."""
    largest = max(row_of)
    if largest >= table_size:
        raise ValueError(
            f"the joint vocabulary needs row {largest} of {owner}'s embedding, which has {table_size}; the "
            "vocabulary belongs to another model"
        )


def check_image_head(vocabulary: Vocabulary, rows: ParentRows, kind: str, head_rows: int, codes: int) -> None:
    """Raise ValueError unless an image head's `codes`, read from row `head_rows` on, are the vocabulary's codes.

    Args:
        kind: the parent's `model_type`.
    """
    if (codes, head_rows) != (vocabulary.image_size, rows.image_start):
        raise ValueError(
            f"the image head of this {kind} writes {codes} codes, whose rows begin at {head_rows}; "
            f"the vocabulary has {vocabulary.image_size} codes, whose rows begin at {rows.image_start}; give the "
            "image tokenizer of this parent"
        )
