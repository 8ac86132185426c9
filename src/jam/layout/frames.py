"""A layout in ids: how a picture is written, and where pictures stand in a document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

Grid = tuple[int, int]  # height and width of a picture in codes
Piece = str | int  # of a template: text, which is tokenized together with its neighbours, or the id of a token
CODE = -1  # stands for any image code where ids are listed
SIDES = ("height", "width")


@dataclass(frozen=True)
class ImageLayout:
    """A layout in ids.

    Args:
        name: see `NamedLayout`.
        begin_id: opens a document.
        opening: ids, and "height" and "width" where these stand.
        closing: ids behind the codes.
        row_end: id behind every row of codes.
        numerals: ids of the numbers 0, 1, 2, ...; with `decimal` those of the ten digits.
        unit: codes that one step of a number stands for.
        reserved: ids of frames that no text has; the first id of the opening is none of them.
        system: pieces that open a conversation.
        question: those before and behind a question.
        unconditional: the prompt of guidance, with the document's beginning and without the picture's opening.
    """

    name: str
    begin_id: int
    opening: tuple[int | str, ...]
    closing: tuple[int, ...]
    row_end: int | None = None
    numerals: tuple[int, ...] = ()
    decimal: bool = False
    unit: int = 1
    reserved: tuple[int, ...] = ()
    system: tuple[Piece, ...] = ()
    question: tuple[tuple[Piece, ...], tuple[Piece, ...]] = ((), ())
    unconditional: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for field in ("opening", "closing", "numerals", "reserved", "system", "unconditional"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        object.__setattr__(self, "question", tuple(tuple(pieces) for pieces in self.question))
        if not self.closing or not self.opening or isinstance(self.opening[0], str):
            raise ValueError(f"layout {self.name}: a picture must begin and end with a token")
        if self.opening[0] in self.reserved or self.closing[0] not in self.reserved:
            raise ValueError(f"layout {self.name}: the token that opens a picture must not be one that closes it")
        if self.decimal and self.opening[-1] in SIDES:
            raise ValueError(f"layout {self.name}: a size in digits must be followed by a token that ends it")

    @property
    def open_id(self) -> int:
        """The text id that begins a picture."""
        first = self.opening[0]
        assert isinstance(first, int)
        return first

    @property
    def writes_size(self) -> bool:
        """Whether pictures say their size, so that they may differ in it."""
        return any(side in self.opening for side in SIDES)

    @cached_property
    def frame_ids(self) -> frozenset[int]:
        """All ids that may stand behind a picture's first one and are no codes."""
        ends = () if self.row_end is None else (self.row_end,)
        return frozenset([part for part in self.opening[1:] if isinstance(part, int)]).union(
            self.numerals, self.closing, ends
        )

    @property
    def ids(self) -> tuple[int, ...]:
        """Every id that the layout names."""
        pieces = [piece for pieces in (self.system, *self.question) for piece in pieces if isinstance(piece, int)]
        return (self.begin_id, self.open_id, *self.frame_ids, *self.unconditional, *pieces)

    def write_opening(self, grid: Grid) -> list[int]:
        """The ids before the codes. Raises ValueError for a size that the layout cannot write."""
        ids: list[int] = []
        for part in self.opening:
            if isinstance(part, int):
                ids.append(part)
                continue
            number, rest = divmod(grid[SIDES.index(part)], self.unit)
            if rest or number < 1 or not (self.decimal or number < len(self.numerals)):
                limit = "" if self.decimal else f" up to {self.unit * (len(self.numerals) - 1)}"
                raise ValueError(
                    f"a picture of {grid[0]} x {grid[1]} codes cannot be written in the layout {self.name!r}: its "
                    f"sides are multiples of {self.unit}{limit}"
                )
            ids += [self.numerals[int(digit)] for digit in str(number)] if self.decimal else [self.numerals[number]]
        return ids

    def read_opening(self, ids: Sequence[int]) -> tuple[int, Grid | None] | None:
        """Length of the opening at the front of `ids`, and the size that it says; None where `ids` end within it.

        Raises:
            ValueError: `ids` begin with no opening.
        """
        place, sides = 0, {}
        for part in self.opening:
            if isinstance(part, int):
                if place == len(ids):
                    return None
                if ids[place] != part:
                    raise ValueError(f"id {ids[place]} where the opening of a picture has {part}")
                place += 1
                continue
            start = place
            while place < len(ids) and ids[place] in self.numerals and (self.decimal or place == start):
                place += 1
            digits = [self.numerals.index(int(token)) for token in ids[start:place]]
            unfinished = place == len(ids) and (self.decimal or not digits)
            if digits[:1] == [0] or len(digits) > 4 or not (digits or unfinished):
                raise ValueError("the opening of a picture has no size")
            if unfinished:
                return None
            sides[part] = self.unit * int("".join(map(str, digits)))
        return place, (sides["height"], sides["width"]) if sides else None

    def body(self, grid: Grid) -> np.ndarray:
        """What follows the opening, int64: `CODE` for every code, the ids of row ends and of the closing."""
        rows = np.full((grid[0], grid[1] + (self.row_end is not None)), CODE, dtype=np.int64)
        if self.row_end is not None:
            rows[:, -1] = self.row_end
        return np.concatenate([rows.ravel(), np.asarray(self.closing, dtype=np.int64)])

    def rows(self, grid: Grid) -> np.ndarray:
        """What is masked of a whole picture: of its `body` the codes and the row ends between them."""
        return self.body(grid)[: -len(self.closing) - (self.row_end is not None)]

    def length(self, grid: Grid) -> int:
        """Ids of a whole picture, with its frame."""
        return len(self.write_opening(grid)) + len(self.body(grid))

    def write(self, codes: Sequence[int], grid: Grid) -> list[int]:
        """A whole picture, from the joint ids of its codes."""
        body = self.body(grid)
        body[body == CODE] = codes
        return [*self.write_opening(grid), *body.tolist()]

    def frames(self, ids: Sequence[int] | np.ndarray) -> list[Frame]:
        """The pictures of a document, in order; the last one may be unfinished.

        Raises:
            ValueError: a picture has no opening (the message names the position).
        """
        tokens = np.asarray(ids)
        opens, closes = np.flatnonzero(tokens == self.open_id), np.flatnonzero(tokens == self.closing[0])
        found: list[Frame] = []
        for start in opens.tolist():
            if found and start < found[-1].end:
                continue
            try:
                read = self.read_opening(tokens[start : start + len(self.opening) + 8].tolist())
            except ValueError as error:
                raise ValueError(f"position {start}: {error}") from None
            length, grid = read or (len(tokens) - start, None)
            first = start + length
            later = closes[np.searchsorted(closes, first) :]
            close = int(later[0]) if len(later) else len(tokens)
            last = close - (close > first and tokens[close - 1] == self.row_end)
            found.append(Frame(start, first, int(last), close, min(close + len(self.closing), len(tokens)), grid))
        return found

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        return {key: _listed(value) for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ImageLayout:
        return cls(**values)


class Frame(NamedTuple):
    """Where a picture stands: opening from `start`, codes from `first` to `last`, closing from `close` to `end`.

    Codes are without the row end behind the last row; the grid is None where the opening says none.
    """

    start: int
    first: int
    last: int
    close: int
    end: int
    grid: Grid | None


def _listed(value: Any) -> Any:
    return [_listed(entry) for entry in value] if isinstance(value, tuple | list) else value
