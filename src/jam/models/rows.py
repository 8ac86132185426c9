"""The joint ids' rows in a parent's tables, and columns of logits in joint order."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jam.models.controls import check_rows, missing_controls
from jam.vocabulary import ParentRows, Vocabulary


class JointRows(nn.Module):
    """The input rows of all joint ids, as buffers that move with the model.

    Attributes:
        row_of, parent_row: row of every joint id in the parent's table, -1 without a row; a list, and long [V].
        absent_row: long [V], row of `absent_input` for every joint id: a missing control's own row, else 0.
        missing: the missing controls (see `missing_controls`).
        complete: True if the parent has a row for every joint id.
    """

    parent_row: Tensor
    absent_row: Tensor

    def __init__(self, vocabulary: Vocabulary, rows: ParentRows) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.rows = rows
        self.row_of = rows.row_of(vocabulary)
        self.missing = missing_controls(vocabulary, self.row_of)
        self.complete = -1 not in self.row_of
        self.controls = min(rows.control_size, vocabulary.control_size) if rows.control_start is not None else 0
        for name in ("parent_row", "absent_row"):
            self.register_buffer(name, torch.empty(vocabulary.size, dtype=torch.long), persistent=False)
        self.fill()

    @property
    def codes(self) -> slice | Tensor:
        """The rows of the image codes; a slice if they are consecutive."""
        vocabulary, start = self.vocabulary, self.rows.image_start
        if start is not None:
            return slice(start, start + vocabulary.image_size)
        return self.parent_row[vocabulary.image_start : vocabulary.control_start]

    def check(self, table_size: int, owner: str) -> None:
        """Raise ValueError unless the parent's tables of `table_size` rows have all rows of joint ids."""
        check_rows(self.row_of, table_size, owner)

    def fill(self) -> None:
        """Compute the buffers; `from_pretrained` calls this again, since it creates empty buffers."""
        self.parent_row.copy_(torch.tensor(self.row_of))
        own = {token: 1 + index for index, token in enumerate(self.missing)}
        self.absent_row.copy_(torch.tensor([own.get(token, 0) for token in range(self.vocabulary.size)]))


def select(table: Tensor, rows: slice | Tensor, dim: int = 0) -> Tensor:
    """Rows (`dim` 1: columns) of a table [N, M]; a slice is not copied."""
    if isinstance(rows, Tensor):
        return table.index_select(dim, rows)
    if rows.stop - rows.start == table.shape[dim]:
        return table  # so that no gradient of a part is padded with zeros
    return table.narrow(dim, rows.start, rows.stop - rows.start)


def spread(pieces: dict[int, Tensor], size: int) -> Tensor:
    """Logits [N, size] from pieces [N, n] that begin at the given columns; -inf in all other columns."""
    parts: list[Tensor] = []
    end = 0
    example = next(iter(pieces.values()))
    empty = example.new_full((), -torch.inf)
    for start, piece in sorted(pieces.items()):
        assert start >= end, "pieces of logits overlap"
        if start > end:
            parts.append(empty.expand(len(piece), start - end))
        parts.append(piece)
        end = start + piece.shape[1]
    if end < size:
        parts.append(empty.expand(len(example), size - end))
    return torch.cat(parts, dim=1)
