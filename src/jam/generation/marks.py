"""Where sentences and words end, in the scripts of the world, by Unicode's rules for text segmentation (UAX 29).

The sentence rules are used without their look ahead: a text that is being written has nothing after its end.
"""

from __future__ import annotations

import regex

# Behind a mark: closing quotes and brackets ("Close" has the opening brackets too), signs that combine or do not show.
_CLOSE = r"[\p{SB=Close}\p{SB=Extend}\p{SB=Format}--\p{Ps}]*"
# Closed by a mark that needs a space after it ("3." may become "3.5"), by one that needs none, or by a line's end.
_MAYBE = regex.compile(rf"(?V1)[\p{{SB=ATerm}}!?\u2026]+{_CLOSE}$")
_SURELY = regex.compile(
    rf"(?V1)[\p{{SB=ATerm}}!?\u2026]+{_CLOSE}\s+$|[\p{{SB=STerm}}--[!?]]\p{{SB=STerm}}*{_CLOSE}\s*$|[\n\p{{SB=Sep}}]\s*$"
)
_TAIL = 32  # characters that these patterns look at
UNKNOWN = "\ufffd"  # how decoders show bytes that are no whole character

_GRAPHEME, _BREAK = regex.compile(r"\X"), regex.compile(r"(?w)\b")
# What may follow and belong to the same word: a letter (Hangul, Arabic and so on join it, too), a digit, a katakana.
_MORE = ("a", "0", "\u30a2")
# No word ends so: white space, an opening mark, a dash, a vowel or a linker in front of the letter that it belongs to.
_OPEN = regex.compile(r"""(?V1)(?:[\s\p{Ps}\p{Pd}\p{Pc}\p{LOE}\p{InCB=Linker}\u200d]|(?:^|[\s\p{Ps}])["'\p{Pi}]+)$""")


def ends_sentence(text: str) -> bool:
    """Whether a sentence ends where the text does."""
    return may_end_sentence(text) or surely_ends_sentence(text)


def may_end_sentence(text: str) -> bool:
    """Whether a sentence ends where the text does, if white space follows or nothing at all."""
    return bool(_MAYBE.search(text[-_TAIL:]))


def surely_ends_sentence(text: str) -> bool:
    """Whether a sentence ends where the text does, whatever follows."""
    return bool(_SURELY.search(text[-_TAIL:]))


def word_ends(text: str) -> set[int]:
    """Places of a text where a word, or a mark after it, ends: always between two graphemes.

    In scripts without spaces (Thai, Khmer, Chinese, Japanese) every grapheme ends a word, except within runs of
    katakana. The text's own end is among the places if no letter or digit could continue its last word.
    """
    whole = {match.end() for match in _GRAPHEME.finditer(text)}
    ends = {place for match in _BREAK.finditer(text) if (place := match.start()) in whole}
    if any(not _BREAK.match(text + more, len(text)) for more in _MORE):
        ends.discard(len(text))
    return {place for place in ends if not _OPEN.search(text[max(0, place - _TAIL) : place])}


def up_to_word(text: str) -> str:
    """A text that was cut anywhere, up to its last word; where no word ends, up to its last whole character."""
    text = text.rstrip(UNKNOWN)
    return text[: max(word_ends(text), default=len(text))]
