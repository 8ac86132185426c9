"""What is asked of any layout: how documents begin, how pictures stand in them, and how questions are asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Grid = tuple[int, int]  # height and width of a picture in codes
Piece = str | int  # of a template: text, which is tokenized together with its neighbours, or the id of a token
CODE = -1  # stands for any image code where ids are listed


class Frame(NamedTuple):
    """Where a picture stands: opening from `start`, codes from `first` to `last`, closing from `close` to `end`.

    Codes are without the row end after the last row; the grid is None where the opening says none.
    """

    start: int
    first: int
    last: int
    close: int
    end: int
    grid: Grid | None


class PictureLayout(ABC):
    """How pictures stand in documents: an opening, the codes, a closing.

    Attributes:
        name: what ``--layout`` calls it.
        closing: ids after the codes.
        row_end: id after every row of codes.
        unit: what the sides of a picture are multiples of.
        reserved: ids of frames that no text has; the first id of the opening is none of them.
        system: pieces that open a conversation.
        question: pieces before and after a question.
        unconditional: the prompt of guidance, with the document's beginning and without the picture's opening.
    """

    name: str
    closing: tuple[int, ...]
    row_end: int | None
    unit: int
    reserved: tuple[int, ...]
    system: tuple[Piece, ...]
    question: tuple[tuple[Piece, ...], tuple[Piece, ...]]
    unconditional: tuple[int, ...]

    @property
    def title(self) -> str:
        """What a reader calls it."""
        return f"the layout {self.name}"

    @property
    @abstractmethod
    def begin_ids(self) -> tuple[int, ...]:
        """What opens a document that is no conversation."""

    @property
    @abstractmethod
    def open_id(self) -> int:
        """The id that begins a picture."""

    @property
    def separator(self) -> tuple[int, ...]:
        """The ids between a picture without a closing and the text after it; the document may end in their place."""
        return ()

    @property
    def closers(self) -> tuple[int, ...]:
        """The ids that may follow the codes of a masked picture, of which nobody knows how many there are."""
        return self.closing[:1]

    @property
    def writes_size(self) -> bool:
        """Whether pictures say their size, so that they may differ in it."""
        return False

    @property
    def frame_ids(self) -> frozenset[int]:
        """All ids that may follow a picture's first one and are no codes."""
        return frozenset(self.closing if self.row_end is None else (*self.closing, self.row_end))

    @abstractmethod
    def write_opening(self, grid: Grid) -> list[int]:
        """The ids before the codes. Raises ValueError for a size that the layout cannot write."""

    @abstractmethod
    def read_opening(self, ids: Sequence[int]) -> tuple[int, Grid | None] | None:
        """Length of the opening at the front of `ids`, and the size that it says; None where `ids` end within it.

        Raises:
            ValueError: `ids` begin with no opening.
        """

    @abstractmethod
    def frames(self, ids: Sequence[int] | np.ndarray) -> list[Frame]:
        """The pictures of a document, in order; the last one may be unfinished.

        Raises:
            ValueError: a picture has no opening (the message names the position).
        """

    def rows(self, grid: Grid) -> np.ndarray:
        """What is masked of a whole picture, int64: `CODE` for every code, and the ids of row ends between them."""
        if self.row_end is None:
            return np.full(grid[0] * grid[1], CODE, dtype=np.int64)
        rows = np.full((grid[0], grid[1] + 1), CODE, dtype=np.int64)
        rows[:, -1] = self.row_end
        return rows.ravel()[:-1]

    def body(self, grid: Grid) -> np.ndarray:
        """What follows the opening, int64: as `rows`, with the last row end and the closing."""
        behind = self.closing if self.row_end is None else (self.row_end, *self.closing)
        return np.concatenate([self.rows(grid), np.asarray(behind, dtype=np.int64)])

    def length(self, grid: Grid) -> int:
        """Ids of a whole picture, with its frame."""
        return len(self.write_opening(grid)) + len(self.body(grid))

    def write(self, codes: Sequence[int], grid: Grid) -> list[int]:
        """A whole picture, from the joint ids of its codes."""
        body = self.body(grid)
        body[body == CODE] = codes
        return [*self.write_opening(grid), *body.tolist()]
