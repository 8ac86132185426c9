"""Text while it is written: pieces that never hold half a character, sentence ends, stop strings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from jam.generation.marks import UNKNOWN, ends_sentence, may_end_sentence, surely_ends_sentence, word_ends

DecodeText = Callable[[Sequence[int]], str]

SENTENCE_ROOM = 64  # so many ids before a limit, the end of a sentence is waited for
_COMPANY = 8  # ids at least in front of new ones, so that a decoder joins them as it would in the whole text
_WINDOW = 32  # ids at most that are decoded with every new one


class Place(NamedTuple):
    """A place in a run: how many ids are before it, and how many characters they say."""

    ids: int
    characters: int


class TextRun:
    """One text between pictures, id by id.

    Args:
        decode: ids of a text to the text.
        prior: ids of the run that are there before anything is written.

    Attributes:
        ids: all ids of the run.
        text: what `ids` say, as far as they were read and up to the last whole character.
        prior_length: characters of `text` that are not new.
        sentence: the last sentence end after `prior`; None: there is none.
    """

    def __init__(self, decode: DecodeText, prior: Sequence[int] = ()) -> None:
        self.decode = decode
        self.ids = list(prior)
        self.text = decode(self.ids) if prior else ""
        self.prior_length = len(self.text)
        self.sentence: Place | None = None
        self._read = self._seen = len(self.ids)  # ids before it are in `text`, and have been looked at
        self._first, self._known = 0, ""  # what is decoded with a new id: ids from the first on, and their text
        self._look_from(max(0, self._read - _COMPANY))
        self._candidate: Place | None = None
        self._places: list[Place] = []  # after `prior`, where no character is parted

    def add(self, token: int) -> None:
        """Take the next id, to be read when it is asked for."""
        self.ids.append(token)

    def read(self) -> None:
        """Let `text` grow by what the new ids say, each that does not end within a character."""
        while self._seen < len(self.ids):
            self._seen += 1
            window = self.decode(self.ids[self._first : self._seen])
            if not window.endswith(UNKNOWN) and window.startswith(self._known):
                self._grow(window[len(self._known) :])
                self._known, self._read = window, self._seen
            if self._read - self._first >= _WINDOW:
                self._look_from(self._read - _COMPANY)

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

    def cut(self, told: int, may_part_words: bool) -> tuple[Place | None, bool]:
        """Where the run ends that a limit cuts, and whether that is within a sentence; None: nothing of it stays.

        It ends after its last sentence, else after its last word, else after the last character; but not before what
        the first `told` ids say.

        Args:
            may_part_words: a text without the end of a word stays, too.
        """
        self.read()
        shown = max((place.characters for place in self._places if place.ids <= told), default=self.prior_length)
        sentence = self._candidate or self.sentence
        if sentence is not None and sentence.characters >= shown:
            return sentence, False
        places, ends = [place for place in self._places if place.characters >= shown], word_ends(self.text)
        words = {place: end for place in places if (end := len(self.text[: place.characters].rstrip())) in ends}
        if words:
            return max(words, key=lambda place: (words[place], -place.ids)), True  # without the space after it
        if shown > self.prior_length or (may_part_words and self.text[self.prior_length :].strip()):
            return places[-1], True
        return None, False

    def _look_from(self, first: int) -> None:
        """Decode from the id `first` on from now on."""
        self._first, self._known = first, self.decode(self.ids[first : self._read]) if first < self._read else ""

    def _grow(self, piece: str) -> None:
        if piece and self._candidate is not None and piece[0].isspace():
            self.sentence = self._candidate
        if piece:
            self._candidate = None
        self.text += piece
        here = Place(self._seen, len(self.text))
        if len(self.text) <= self.prior_length:
            return
        self._places.append(here)
        if surely_ends_sentence(self.text):
            self.sentence = here
        elif may_end_sentence(self.text):
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
