"""A picture while it is read or written, id by id."""

from __future__ import annotations

from copy import copy
from typing import Literal

import numpy as np

from jam.layout.pictures import CODE, Grid, PictureLayout


class PictureReader:
    """Follows one picture id by id, after the id that opens it.

    Args:
        grid: shape of a picture that doesn't say its own.
    """

    def __init__(self, layout: PictureLayout, grid: Grid) -> None:
        self.layout, self.grid = layout, grid
        self.ids = [layout.open_id]
        self.codes = 0
        self.masked = False  # it holds a sentinel: how many codes it has is not known
        self._rest: np.ndarray | None = None  # what is still to come; None within the opening
        self._enter()

    def copy(self) -> PictureReader:
        """An independent reader at the same place."""
        other = copy(self)
        other.ids = [*self.ids]
        return other

    @property
    def next(self) -> Literal["opening", "code", "frame", "end"]:
        """What comes next: an id of the opening, a code (or more, when masked), an id of the frame, or nothing."""
        if self._rest is None:
            return "opening"
        if not len(self._rest):
            return "end"
        return "code" if self._rest[0] == CODE else "frame"

    def takes(self, token: int, is_code: bool) -> bool:
        """Whether the id may come next."""
        if self._rest is None:
            try:
                self.layout.read_opening([*self.ids, token])
            except ValueError:
                return False
            return True
        if self.masked and self.next == "code":
            return is_code or token in (self.layout.row_end, *self.layout.closers)
        return len(self._rest) > 0 and (is_code if self._rest[0] == CODE else int(self._rest[0]) == token)

    def feed(self, token: int, is_code: bool) -> None:
        """Take an id that may come next."""
        self.ids.append(token)
        self.codes += is_code
        if self._rest is None:
            self._enter()
        elif not self.masked or self.next == "frame":
            self._rest = self._rest[1:]
        elif token in self.layout.closers:
            self._rest = np.asarray(self.layout.closing[1:], dtype=np.int64)

    def forced(self) -> list[int]:
        """The ids that come next without choice, where a picture without a size of its own has `grid`.

        Raises:
            ValueError: the opening has begun with another size.
        """
        if self._rest is not None:
            return up_to_code(self._rest)
        whole = self.layout.write_opening(self.grid)
        if whole[: len(self.ids)] != self.ids:
            raise ValueError(
                f"a picture of {self.grid[0]} x {self.grid[1]} codes is to be drawn, and its opening ends within "
                "another size"
            )
        return whole[len(self.ids) :]

    @property
    def left(self) -> int:
        """How many ids the picture still has, where it is neither masked nor within another size's opening."""
        return len(self.forced()) + len(self.layout.body(self.grid)) if self._rest is None else len(self._rest)

    def _enter(self) -> None:
        read = self.layout.read_opening(self.ids)
        if read is not None:
            self.grid = read[1] or self.grid
            self._rest = self.layout.body(self.grid)


def up_to_code(body: np.ndarray) -> list[int]:
    """The ids before the first code."""
    codes = np.flatnonzero(body == CODE)
    return body[: codes[0] if len(codes) else None].tolist()
