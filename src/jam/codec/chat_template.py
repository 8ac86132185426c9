"""A language model's own chat template: conversations in the very ids that its `apply_chat_template` gives.

The template is Jinja, run in the sandbox of `transformers`. It is given the text of every turn, so that what it does to
a text (trimming, leaving thoughts out of earlier answers) is done. Pictures, and names of special tokens that a text
holds, are single characters of Unicode's private areas meanwhile: no text can write a turn's end.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from jam.codec.text import adds_space, encode_text, special_names
from jam.codec.turns import Template, Written
from jam.documents import Message, Part, Text
from jam.layout import Piece
from jam.vocabulary import Vocabulary

NAME = "the text parent's chat template"
PRIVATE = (*range(0xF0000, 0xFFFFE), *range(0x100000, 0x10FFFE))
PROBE = "\U000f0000"


def template_digest(tokenizer: PreTrainedTokenizerBase | None) -> str | None:
    """Identifies a tokenizer's chat template; None for one that has none."""
    if tokenizer is None or not tokenizer.chat_template:
        return None
    return hashlib.sha256(tokenizer.get_chat_template().encode()).hexdigest()[:16]


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token with which a tokenizer's chat template ends an answer; None where it has none for that."""
    ids = [piece for piece in _probe(tokenizer)[3] if isinstance(piece, int)]
    return ids[0] if ids else None


@dataclass(frozen=True)
class ChatTemplate(Template):
    """The chat template of a tokenizer as a `Template`."""

    tokenizer: PreTrainedTokenizerBase = field(kw_only=True)

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> ChatTemplate:
        """Raises ValueError unless it is the template that the vocabulary names."""
        found = template_digest(tokenizer)
        if found != vocabulary.chat_template:
            raise ValueError(
                f"the tokenizer's chat template is {found or 'missing'}, this model's conversations are written by "
                f"{vocabulary.chat_template}; put the tokenizer's files back, or fuse the parents again"
            )
        before, behind, lead, tail = _probe(tokenizer)
        number = next((place for place, piece in enumerate(tail) if isinstance(piece, int)), None)
        closing = "" if number is None else "".join(map(str, tail[:number]))
        end_id = vocabulary.eos_id if number is None else int(tail[number])
        return cls(NAME, (), (), before, behind, end_id, lead, closing, tokenizer=tokenizer)

    def question(self, turns: Sequence[Message]) -> list[Written]:
        """The turns before an answer, from the document's first id on.

        Raises:
            ValueError: the template refuses these turns.
        """
        shown = _Shown(self.tokenizer, turns)
        text = _render(self.tokenizer, shown.messages, answers=True)
        written: list[Written] = []
        for piece in shown.split(text):
            if isinstance(piece, str):
                # Names of special tokens in it are the template's own.
                ids = self.tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"]
                written += ids
            elif isinstance(piece, Text):
                written += encode_text(self.tokenizer, piece.text)
            else:
                written.append(piece)
        return written


class _Shown:
    """The turns of a conversation as a template sees them.

    Attributes:
        messages: role and text of each.
        hidden: what single characters of the texts stand for.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, turns: Sequence[Message]) -> None:
        used = {letter for turn in turns for part in turn.content if isinstance(part, Text) for letter in part.text}
        self._free = (chr(place) for place in PRIVATE if chr(place) not in used)
        self._names = re.compile("|".join(map(re.escape, sorted(special_names(tokenizer), key=len, reverse=True))))
        self.hidden: dict[str, Part] = {}
        self.messages = [{"role": turn.role, "content": "".join(map(self._letters, turn.content))} for turn in turns]

    def split(self, text: str) -> Iterator[str | Part]:
        """A rendered text as runs without what was hidden in it, and this."""
        start = 0
        for place, letter in enumerate(text):
            if letter in self.hidden:
                if place > start:
                    yield text[start:place]
                yield self.hidden[letter]
                start = place + 1
        if start < len(text):
            yield text[start:]

    def _letters(self, part: Part) -> str:
        if isinstance(part, Text):
            return self._names.sub(lambda found: self._hide(Text(found.group())), part.text)
        return self._hide(part)

    def _hide(self, part: Part) -> str:
        letter = next(self._free)
        self.hidden[letter] = part
        return letter


def _probe(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[Piece, ...], tuple[Piece, ...], str, tuple[Piece, ...]]:
    """What the template writes before a first question, after it, before its answer's text, and after that text."""
    question = {"role": "user", "content": PROBE}
    asked = _render(tokenizer, [question], answers=True)
    before, _, behind = asked.partition(PROBE)
    whole = _render(tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": PROBE}])
    prompt = _render(tokenizer, [{"role": "user", "content": "a"}], answers=True)
    head, _, tail = whole.partition(PROBE)
    lead = head.removeprefix(prompt) if head.startswith(prompt) else ""
    if adds_space(tokenizer):
        lead = lead.removeprefix(" ")  # which the tokenizer writes itself
    return _pieces(before, tokenizer), _pieces(behind, tokenizer), lead, _pieces(tail, tokenizer)


def _pieces(text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[Piece, ...]:
    """Text of a template, and the ids of special tokens in it."""
    names = special_names(tokenizer)
    split = re.split(f"({'|'.join(map(re.escape, sorted(names, key=len, reverse=True)))})", text)
    return tuple(names.get(part, part) for part in split if part)


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], answers: bool = False) -> str:
    """Messages by the template; `answers`: up to where an answer begins."""
    try:
        text: Any = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answers)
    except (TemplateError, TypeError, KeyError, IndexError) as error:
        roles = ", ".join(message["role"] for message in messages)
        raise ValueError(
            f"the text parent's chat template refuses a conversation of the roles {roles}: {error}; change the turns, "
            "or fuse with --layout paper, which has no template"
        ) from None
    return text
