"""Rows of a Parquet file. A row that is too large or cannot be read becomes an error, and costs no other row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jam.files import reason

ROWS = 64  # rows that are read together


def rows_of(table: Any, number: int, most: int) -> Iterator[dict[str, Any] | ValueError]:
    """The rows of a table's group; an error for a row with more than `most` bytes, or with a value unknown to Python.

    As many rows are read together as would fit into `most` bytes if each had the size of the group's largest column.
    """
    group = table.metadata.row_group(number)
    largest = max((group.column(index).total_uncompressed_size for index in range(group.num_columns)), default=0)
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
    """A single row, or an error: too many bytes, bytes that are no UTF-8, a date beyond Python's last."""
    if row.nbytes > most:
        return ValueError(f"the row has {row.nbytes} bytes, more than {most}")
    try:
        values: dict[str, Any] = row.to_pylist()[0]
        return values
    except (ValueError, OverflowError) as error:
        return ValueError(f"the row cannot be read: {reason(error)}")
