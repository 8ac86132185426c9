"""Questions of a conversation in a layout's template, and back.

Text of a template is tokenized together with the text beside it, as the family's own templates are; names of tokens in
it are ids. The paper's layout ends every turn before the answer with a newline. An earlier answer does so in all
layouts: where a family ends it with ``</s>``, the document would end.
"""

from __future__ import annotations

from collections.abc import Sequence

from jam.documents import Message, Part, Text
from jam.layout import ImageLayout, Piece

TURN_END = "\n"

Written = Part | int  # a part of a document, or the id of a template's token


def question(turns: Sequence[Message], layout: ImageLayout | None) -> list[Written]:
    """The turns before an answer."""
    system, before, behind = _template(layout)
    written = [] if turns and turns[0].role == "system" else _written(system)
    for turn in turns:
        if turn.role == "user":
            written += [*_written(before), *turn.content, *_written(behind)]
        else:
            written += [*turn.content, Text(TURN_END)]
    return written


def strip(parts: Sequence[Written], layout: ImageLayout | None) -> list[Part]:
    """Parts of a question without the template before the first turn and behind the last one.

    Ids of a template's tokens that stay, between turns, are left out.
    """
    system, before, behind = _template(layout)
    rest = list(parts)
    for piece in _joined((*system, *before)):
        _strip(rest, 0, piece)
    for piece in reversed(_joined(behind)):
        _strip(rest, -1, piece)
    return [part for part in rest if not isinstance(part, int)]


def marks(layout: ImageLayout | None) -> set[int]:
    """Ids of the tokens in a layout's template."""
    return {piece for pieces in _template(layout) for piece in pieces if isinstance(piece, int)}


def _template(layout: ImageLayout | None) -> tuple[tuple[Piece, ...], ...]:
    return ((), (), (TURN_END,)) if layout is None else (layout.system, *layout.question)


def _written(pieces: Sequence[Piece]) -> list[Written]:
    return [Text(piece) if isinstance(piece, str) else piece for piece in pieces]


def _joined(pieces: Sequence[Piece]) -> list[Piece]:
    """Pieces with neighbouring texts in one."""
    joined: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, str) and joined and isinstance(joined[-1], str):
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def _strip(parts: list[Written], end: int, piece: Piece) -> None:
    """Take a piece of the template away from the front (0) or the end (-1), if it is there."""
    if not parts:
        return
    part = parts[end]
    if isinstance(piece, int):
        if part == piece:
            parts.pop(end)
    elif isinstance(part, Text):
        left = part.text.removeprefix(piece) if end == 0 else part.text.removesuffix(piece)
        if left:
            parts[end] = Text(left)
        else:
            parts.pop(end)
