"""A family's layout by the names of its tokens, and its ids in a tokenizer that has them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jam.layout.frames import SIDES, ImageLayout
from jam.layout.pictures import Grid, Piece

DIGITS = tuple("0123456789")
TOKEN = re.compile(r"(<[^<>]+>)")  # names of tokens in templates
SIDE = re.compile(r"\{(\w+)\}")
PROBES = ((1, 1), (9, 10), (64, 64), (45, 128), (90, 90), (123, 67))


@dataclass(frozen=True)
class NamedLayout:
    """A family's layout by the names of its tokens: what stands in angle brackets must be a token of its tokenizer.

    Args:
        name: what ``--layout`` calls it.
        opening: before the codes; ``{height}`` and ``{width}`` stand for the size.
        closing: after the codes.
        row_end: token after every row of codes.
        numbers: tokens of the numbers 0, 1, 2, ... in the size; by default sizes are decimal numbers in the text.
        unit: codes that one step of such a number stands for.
        system: what opens a conversation that has no system message.
        question: texts before and after a question.
        unconditional: the prompt of classifier-free guidance, before the picture's opening.
        behind_ids: image codes are the rows directly after the tokenizer's ids, even in a table with more rows.
    """

    name: str
    opening: str
    closing: str
    row_end: str | None = None
    numbers: tuple[str, ...] = DIGITS
    unit: int = 1
    system: str = ""
    question: tuple[str, str] = ("", "\n")
    unconditional: str = ""
    behind_ids: bool = False

    def missing(self, tokenizer: Any) -> str | None:
        """Why the layout cannot be written with a tokenizer; None: it can."""
        vocabulary = tokenizer.get_vocab()
        templates = [self.opening, self.closing, self.row_end or "", self.system, *self.question, self.unconditional]
        names = [name for template in templates for name in TOKEN.findall(template)]
        absent = [name for name in dict.fromkeys([*names, *self._numerals]) if name not in vocabulary]
        if absent:
            return f"the tokenizer has no {', '.join(absent[:3])}{', ...' if len(absent) > 3 else ''}"
        if self._numerals == DIGITS:
            layout = self.resolve(tokenizer)
            for sides in PROBES:
                text = "".join(_sized(SIDE.split(self.opening), sides))
                if layout.write_opening(sides) != _ids(text, tokenizer):
                    return f"the tokenizer does not write the size {sides[0]} x {sides[1]} digit by digit"
        return None

    def resolve(self, tokenizer: Any) -> ImageLayout:
        """The layout in ids of a tokenizer that has its tokens (see `missing`)."""
        vocabulary = tokenizer.get_vocab()
        opening: list[int | str] = []
        for number, part in enumerate(SIDE.split(self.opening)):
            opening += [part] if number % 2 else _ids(part, tokenizer)
        numerals = tuple(vocabulary[name] for name in self._numerals)
        names = TOKEN.findall(self.opening)[1:] + TOKEN.findall(self.closing + (self.row_end or ""))
        begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        system, before, behind = (_pieces(template, vocabulary) for template in (self.system, *self.question))
        return ImageLayout(
            name=self.name,
            begin_id=begin,
            opening=tuple(opening),
            closing=tuple(_ids(self.closing, tokenizer)),
            row_end=vocabulary[self.row_end] if self.row_end else None,
            numerals=numerals,
            decimal=self._numerals == DIGITS,
            unit=self.unit,
            reserved=tuple(
                sorted({vocabulary[name] for name in names} | set(numerals if self.numbers != DIGITS else ()))
            ),
            system=system,
            question=(before, behind),
            unconditional=(begin, *_ids(self.unconditional, tokenizer)),
        )

    @property
    def _numerals(self) -> tuple[str, ...]:
        return self.numbers if any(f"{{{side}}}" in self.opening for side in SIDES) else ()


def _ids(text: str, tokenizer: Any) -> list[int]:
    """Ids of a template without sizes: tokens by their names, the rest as text."""
    ids: list[int] = []
    for piece in _pieces(text, tokenizer.get_vocab()):
        if isinstance(piece, str):
            ids += tokenizer(piece, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        else:
            ids.append(piece)
    return ids


def _pieces(template: str, vocabulary: dict[str, int]) -> tuple[Piece, ...]:
    return tuple(vocabulary[part] if number % 2 else part for number, part in enumerate(TOKEN.split(template)) if part)


def _sized(parts: Sequence[str], grid: Grid) -> list[str]:
    return [str(grid[SIDES.index(part)]) if number % 2 else part for number, part in enumerate(parts)]
