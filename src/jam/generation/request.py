"""What is asked of the engine, and what can be said of it before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from jam.generation.settings import GenerationSettings
from jam.grammar import Cursor, Grammar, State

SPANS = (State.TEXT_SPAN, State.IMAGE_SPAN)


@dataclass(eq=False)
class Session:
    """A document whose cache is kept when a request ends, for the next one (chat.py).

    A request of a session reuses what it has in common with `ids` from the beginning on; the rest is read anew. The
    engine may take the slot for other requests while the session rests: that costs time and changes nothing.
    """

    slot: int | None = None
    ids: list[int] = field(default_factory=list)
    busy: bool = False


@dataclass(frozen=True)
class Request:
    """One document to continue.

    Args:
        prompt: joint ids, beginning with ``</s>``. Pictures may be among them, and the last one may be unfinished. Or a
            masked document with the sentinel of its first gap behind it (fill.py): the gaps are filled then.
        settings: how.
        answer_start: where the text begins that the answer's belongs to (None: behind the prompt). Ids from here on
            count as one text with what is written; what is written is all that events and counts are about.
        unconditional: ids in front of the ``<break>`` of every picture of the unconditional stream (None: the family's
            prompt, guidance.py), a retrieved context for example.
        session: where the cache comes from and stays.
    """

    prompt: list[int]
    settings: GenerationSettings = field(default_factory=GenerationSettings)
    answer_start: int | None = None
    unconditional: list[int] | None = None
    session: Session | None = None


def read_prompt(prompt: list[int], grammar: Grammar) -> Cursor:
    """Where a prompt stands in the grammar.

    Raises:
        ValueError: it is empty, breaks the grammar, is closed, or holds mask tokens that no opened gap belongs to.
    """
    v = grammar.vocabulary
    if not prompt:
        raise ValueError(f"the prompt is empty: it must hold at least {v.name(v.eos_id)}, which begins a document")
    states = grammar.states(prompt)  # names the position of what breaks the grammar
    cursor = Cursor(grammar)
    for token, state in zip(prompt[1:], states[1:], strict=True):
        if state is State.MASKED_IMAGE and cursor.state is State.IMAGE:
            cursor.enter_masked_image()
        cursor.feed(token)
    if cursor.spans:
        _check_gaps(prompt, cursor)
    elif cursor.state not in (State.TEXT, State.IMAGE, State.IMAGE_END):
        raise ValueError("the prompt is closed by </s>; give the open beginning of a document")
    return cursor


def _check_gaps(prompt: list[int], cursor: Cursor) -> None:
    v = cursor.grammar.vocabulary
    if cursor.state not in SPANS or not v.is_sentinel(prompt[-1]):
        raise ValueError(
            "the prompt holds mask tokens, and no gap is open behind it; close it with </s> and give the sentinel of "
            "the first gap to be filled"
        )
    sentinels = [place for place, token in enumerate(prompt) if v.is_sentinel(token)]
    for place, state in zip(sentinels, cursor.spans, strict=False):
        alone = prompt[place - 1] == v.break_id and prompt[place + 1] in (v.break_id, v.eos_id)
        if state is State.IMAGE_SPAN and not alone:
            raise ValueError(f"position {place}: a part of a picture is masked; a gap is a whole picture, or text")


def tokens_of_image(grammar: Grammar) -> int:
    """What a picture takes of a budget: its ``<break>``, its codes and one id behind it."""
    return grammar.image_tokens + 2


def tokens_of_spans(spans: Sequence[State], grammar: Grammar) -> int:
    """What these gaps take at least, each with its sentinel and its ``<eoss>``."""
    return sum(2 + (grammar.image_tokens if state is State.IMAGE_SPAN else 1) for state in spans)
