"""Rows of a Parquet file, one by one: large ones and those that cannot be read cost no other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jam.files import reason

ROWS = 64  # that are read together


def rows_of(table: Any, number: int, most: int) -> Iterator[dict[str, Any] | ValueError]:
    """The rows of one of a table's groups; where one is too large, or has what Python has not, why it cannot be had.

    A row may have `most` bytes. As many are read together as would fit if each were as large as the group says that its
    largest column is.
    """
    group = table.metadata.row_group(number)
    largest = max((group.column(one).total_uncompressed_size for one in range(group.num_columns)), default=0)
    if largest > most * group.num_rows:
        error = ValueError(f"the rows around it have {largest} bytes, more than {most} each")
        yield from [error] * group.num_rows
        return
    for batch in table.iter_batches(max(1, min(ROWS, most // max(1, largest))), row_groups=[number]):
        try:
            yield from batch.to_pylist() if batch.nbytes <= most else _single(batch, most)
        except (ValueError, OverflowError):
            yield from _single(batch, most)


def _single(batch: Any, most: int) -> list[dict[str, Any] | ValueError]:
    return [_row(batch.slice(number, 1), most) for number in range(batch.num_rows)]


def _row(row: Any, most: int) -> dict[str, Any] | ValueError:
    """A single row, or why it cannot be had: its size, bytes that are no UTF-8, a date after the last."""
    if row.nbytes > most:
        return ValueError(f"the row has {row.nbytes} bytes, more than {most}")
    try:
        return row.to_pylist()[0]
    except (ValueError, OverflowError) as error:
        return ValueError(f"the row cannot be read: {reason(error)}")
