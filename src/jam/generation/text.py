"""Text while it is written: pieces that never hold half a character, sentence ends, stop strings."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

DecodeText = Callable[[Sequence[int]], str]

# Closed by a mark that needs a space behind it ("3." may become "3.5"), by one that needs none, or by a line's end.
_MAYBE = re.compile(r"[.!?\u2026]+[\"'\u201d\u2019\u00bb)\]]*$")
_SURELY = re.compile(_MAYBE.pattern[:-1] + r"\s+$|[\u3002\uff01\uff1f]+[\u300d\u300f\u201d\u2019\uff09]*\s*$|\n\s*$")
SENTENCE_ROOM = 64  # so many ids before a limit, the end of a sentence is waited for
_UNKNOWN = "\ufffd"
_TAIL = 32  # characters that the patterns look at
_COMPANY = 8  # ids in front of new ones, so that a decoder joins them as it would in the whole text


def ends_sentence(text: str) -> bool:
    """Whether a sentence ends where the text does."""
    return bool(_MAYBE.search(text[-_TAIL:]) or _SURELY.search(text[-_TAIL:]))


class TextRun:
    """One text between pictures, id by id.

    Args:
        decode: ids of a text to the text.
        prior: ids of the run that are there before anything is written.

    Attributes:
        ids: all ids of the run.
        text: what `ids` say, as far as they were read and up to the last whole character.
        prior_length: characters of `text` that are not new.
        sentence: (number of ids, characters of `text`) up to the last sentence end behind `prior`; None: there is none.
    """

    def __init__(self, decode: DecodeText, prior: Sequence[int] = ()) -> None:
        self.decode = decode
        self.ids = list(prior)
        self.text = decode(self.ids) if prior else ""
        self.prior_length = len(self.text)
        self.sentence: tuple[int, int] | None = None
        self._read = self._seen = len(self.ids)  # ids before it are in `text`, and have been looked at
        self._first = max(0, self._read - _COMPANY)
        self._candidate: tuple[int, int] | None = None

    def add(self, token: int) -> None:
        """Take the next id, to be read when it is asked for."""
        self.ids.append(token)

    def read(self) -> None:
        """Let `text` grow by what the new ids say, each that does not end within a character."""
        while self._seen < len(self.ids):
            self._seen += 1
            known = self.decode(self.ids[self._first : self._read])
            window = self.decode(self.ids[self._first : self._seen])
            if not window.endswith(_UNKNOWN) and window.startswith(known):
                self._grow(window[len(known) :])
                self._first, self._read = self._read, self._seen

    def close(self) -> None:
        """No more ids come: half a character is shown as the decoder shows it."""
        self.read()
        if self._read < len(self.ids):
            whole = self.decode(self.ids)
            if whole.startswith(self.text):
                self._grow(whole[len(self.text) :])
            self._read = len(self.ids)
        if self._candidate is not None:
            self.sentence = self._candidate

    @property
    def at_sentence_end(self) -> bool:
        """Whether the run, as far as it is written, ends with a sentence."""
        self.read()
        return self._read == len(self.ids) and ends_sentence(self.text)

    def last_sentence(self) -> tuple[int, int] | None:
        """`sentence`, or the very end of the run if a sentence seems to end there."""
        self.read()
        return self._candidate or self.sentence

    def _grow(self, piece: str) -> None:
        if piece and self._candidate is not None and piece[0].isspace():
            self.sentence = self._candidate
        if piece:
            self._candidate = None
        self.text += piece
        here = self._seen, len(self.text)
        if len(self.text) <= self.prior_length:
            return
        if _SURELY.search(self.text[-_TAIL:]):
            self.sentence = here
        elif _MAYBE.search(self.text[-_TAIL:]):
            self._candidate = here


def find_stop(text: str, start: int, stops: Sequence[str]) -> int | None:
    """Where the first stop string begins in ``text[start:]``, as an index of `text`; None if there is none."""
    found = [place for stop in stops if (place := text.find(stop, start)) >= 0]
    return min(found, default=None)


def held_back(text: str, stops: Sequence[str]) -> int:
    """Characters at the end of a text that may be the beginning of a stop string."""
    longest = max((len(stop) - 1 for stop in stops), default=0)
    for size in range(min(longest, len(text)), 0, -1):
        if any(stop.startswith(text[-size:]) for stop in stops):
            return size
    return 0
