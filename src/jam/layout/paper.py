"""The paper's layout: codes between two `<break>`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jam.layout.pictures import Frame, Grid, PictureLayout


@dataclass(frozen=True)
class PaperLayout(PictureLayout):
    """Codes after ``<break>``; another ``<break>`` leads back to text, unless the document ends.

    Args:
        break_id: ``<break>``.
        begin: ids that open a document.
        ends: ids, one of which ends it.
        unconditional: see `PictureLayout`.
    """

    break_id: int
    begin: tuple[int, ...]
    ends: tuple[int, ...]
    unconditional: tuple[int, ...]

    name = "paper"
    title = "the paper's layout"
    closing = ()
    row_end = None
    unit = 1
    reserved = ()
    system = ()
    question = ((), ("\n",))

    @property
    def begin_ids(self) -> tuple[int, ...]:
        return self.begin

    @property
    def open_id(self) -> int:
        return self.break_id

    @property
    def separator(self) -> tuple[int, ...]:
        return (self.break_id,)

    @property
    def closers(self) -> tuple[int, ...]:
        return (self.break_id, *self.ends)

    def write_opening(self, grid: Grid) -> list[int]:
        return [self.break_id]

    def read_opening(self, ids: Sequence[int]) -> tuple[int, Grid | None]:
        return 1, None

    def frames(self, ids: Sequence[int] | np.ndarray) -> list[Frame]:
        """The pictures of a document, in order: every second ``<break>`` opens one, and the next one closes it."""
        tokens = np.asarray(ids)
        breaks = np.flatnonzero(tokens == self.break_id).tolist()
        stop = len(tokens) - (len(tokens) > 0 and int(tokens[-1]) in self.ends)
        pairs = zip(breaks[::2], [*breaks[1::2], stop], strict=False)
        return [Frame(left, left + 1, right, right, right + (right < stop), None) for left, right in pairs]
