"""A family's layout in ids: how a picture is written, and where pictures stand in a document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from jam.layout.pictures import Frame, Grid, PictureLayout, Piece

SIDES = ("height", "width")


@dataclass(frozen=True)
class ImageLayout(PictureLayout):
    """A family's layout in ids; what is not said here is said of `PictureLayout`.

    Args:
        begin_id: opens a document.
        opening: ids, and "height" and "width" where these stand.
        numerals: ids of the numbers 0, 1, 2, ...; with `decimal` the ids of the ten digits.
        unit: codes that one step of a number stands for.
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
    def begin_ids(self) -> tuple[int, ...]:
        return (self.begin_id,)

    @property
    def open_id(self) -> int:
        first = self.opening[0]
        assert isinstance(first, int)
        return first

    @property
    def writes_size(self) -> bool:
        return any(side in self.opening for side in SIDES)

    @cached_property
    def frame_ids(self) -> frozenset[int]:
        opening = [part for part in self.opening[1:] if isinstance(part, int)]
        return super().frame_ids.union(opening, self.numerals)

    @property
    def ids(self) -> tuple[int, ...]:
        """Every id that the layout names."""
        pieces = [piece for pieces in (self.system, *self.question) for piece in pieces if isinstance(piece, int)]
        return (self.begin_id, self.open_id, *self.frame_ids, *self.unconditional, *pieces)

    def write_opening(self, grid: Grid) -> list[int]:
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

    def frames(self, ids: Sequence[int] | np.ndarray) -> list[Frame]:
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


def _listed(value: Any) -> Any:
    return [_listed(entry) for entry in value] if isinstance(value, tuple | list) else value
