"""What the tables of a tower must hold: rows of the joint ids, and control tokens that the parent has no rows for."""

from __future__ import annotations

from collections.abc import Sequence

from jam.vocabulary import ParentRows, Vocabulary


def missing_controls(vocabulary: Vocabulary, row_of: Sequence[int]) -> list[int]:
    """Ids that every tower must be able to write but this parent cannot: what ends documents, ``<break>``, ``<eoss>``
    and sentinels.

    In this order they own the rows ``absent_input[1:]`` and ``absent_output`` of a `JointTower`.

    Args:
        row_of: see `ParentRows.row_of`.
    """
    controls = [*vocabulary.end_ids, *range(vocabulary.control_start, vocabulary.size)]
    return [token for token in controls if row_of[token] < 0]


def check_rows(row_of: Sequence[int], table_size: int, owner: str) -> None:
    """Raise ValueError unless the parent's tables of `table_size` rows have the row of every joint id."""
    largest = max(row_of)
    if largest >= table_size:
        raise ValueError(
            f"the joint vocabulary needs row {largest} of {owner}'s embedding, which has {table_size}; the "
            "vocabulary belongs to another model"
        )


def check_image_head(vocabulary: Vocabulary, rows: ParentRows, kind: str, head_rows: int, codes: int) -> None:
    """Raise ValueError unless a module that writes `codes` codes, read from row `head_rows` on, writes a vocabulary's.

    Args:
        kind: the parent's `model_type`.
    """
    if (codes, head_rows) != (vocabulary.image_size, rows.image_start):
        raise ValueError(
            f"the image head of this {kind} writes {codes} codes, whose rows begin at {head_rows}; "
            f"the vocabulary has {vocabulary.image_size} codes, whose rows begin at {rows.image_start}; give the "
            "image tokenizer of this parent"
        )
