"""Questions of a conversation in a layout's template, and back.

Text of a template is tokenized together with the text beside it, as the family's own templates are; names of tokens in
it are ids. The paper's layout ends every turn before the answer with a newline. An earlier answer does so in all
layouts: where a family ends it with ``</s>``, the document would end. A text parent's own chat template is a
`jam.codec.chat_template.ChatTemplate`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from jam.documents import Message, Part, Text
from jam.layout import Piece
from jam.vocabulary import Vocabulary

TURN_END = "\n"

Written = Part | int  # a part of a document, or the id of a template's token


@dataclass(frozen=True)
class Template:
    """How questions are asked: the pieces around the parts of a conversation.

    Args:
        name: what a reader calls it.
        begin: ids that open a conversation.
        system: pieces that open one without a system message.
        before, behind: pieces before and after a question.
        lead: text between all that and an answer.
        closing: text after an answer's own.
        end_id: closes an answer.
    """

    name: str
    begin: tuple[int, ...]
    system: tuple[Piece, ...]
    before: tuple[Piece, ...]
    behind: tuple[Piece, ...]
    end_id: int
    lead: str = ""
    closing: str = ""

    @classmethod
    def of_layout(cls, vocabulary: Vocabulary) -> Template:
        """That of the vocabulary's layout."""
        layout = vocabulary.pictures
        return cls(layout.title, layout.begin_ids, layout.system, *layout.question, vocabulary.eos_id)

    def question(self, turns: Sequence[Message]) -> list[Written]:
        """The turns before an answer, from the document's first id on."""
        written: list[Written] = [*self.begin]
        written += [] if turns and turns[0].role == "system" else _written(self.system)
        for turn in turns:
            if turn.role == "user":
                written += [*_written(self.before), *turn.content, *_written(self.behind)]
            else:
                written += [*turn.content, Text(TURN_END)]
        return written

    def answers_in(
        self, turns: Sequence[Message], ids: Sequence[int], write: Callable[[Sequence[Written]], list[int]]
    ) -> list[tuple[int, int]]:
        """Half-open spans of the answers among these turns, in the ids of their `question`.

        An answer begins where the turns before it end, and reaches to the id that ends it, or else as far as its own
        ids do. It is left out where the template writes the turns before it otherwise once others follow.

        Args:
            write: gives the ids of parts.
        """
        spans: list[tuple[int, int]] = []
        for number, turn in enumerate(turns):
            if turn.role != "assistant":
                continue
            try:
                before = self.question(turns[:number])
            except ValueError:  # a template may refuse the turns so far
                continue
            asking = write(before)
            start = _shared(asking, ids)
            if start >= max(len(asking) - 1, spans[-1][1] if spans else 0):  # the last id may reach into the answer
                ends = (place + 1 for place in range(start, len(ids)) if ids[place] == self.end_id)
                spans.append((start, next(ends, _shared(write([*before, *turn.content]), ids))))
        return spans

    def strip(self, parts: Sequence[Written]) -> list[Part]:
        """Parts of a question without the template before the first turn and after the last one.

        Ids of a template's tokens that stay, between turns, are left out.
        """
        rest = list(parts)
        for piece in _joined((*self.system, *self.before)):
            _strip(rest, 0, piece)
        for piece in reversed(_joined(self.behind)):
            _strip(rest, -1, piece)
        return [part for part in rest if not isinstance(part, int)]

    def answer(self, parts: Sequence[Part]) -> list[Part]:
        """An answer with the text that the template writes around it."""
        around = [Text(self.lead)] if self.lead else [], [Text(self.closing)] if self.closing else []
        return [*around[0], *parts, *around[1]]

    def strip_answer(self, parts: list[Part]) -> list[Part]:
        """The inverse of `answer`."""
        rest: list[Written] = [*parts]
        for end, text in ((0, self.lead), (-1, self.closing)):
            if text:
                _strip(rest, end, text)
        return [part for part in rest if not isinstance(part, int)]

    @cached_property
    def marks(self) -> frozenset[int]:
        """Ids of the tokens in it."""
        pieces = (*self.system, *self.before, *self.behind)
        return frozenset(piece for piece in pieces if isinstance(piece, int))


def _written(pieces: Sequence[Piece]) -> list[Written]:
    return [Text(piece) if isinstance(piece, str) else piece for piece in pieces]


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """How many ids both begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(first), len(second)))


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
