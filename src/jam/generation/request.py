"""What is asked of the engine, and what can be said of it before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from jam.documents import Message
from jam.generation.settings import GenerationSettings
from jam.grammar import Cursor, Grammar, State


@dataclass(eq=False)
class Session:
    """A document whose cache is kept when a request ends, for the next one (chat.py).

    A request of a session reuses what it has in common with the ids in its slot from the beginning on; the rest is read
    anew. The engine may take the slot for other requests while the session rests: that costs time and changes nothing.
    """

    slot: int | None = None
    busy: bool = False


@dataclass(frozen=True)
class Request:
    """One document to continue.

    Args:
        prompt: joint ids from the beginning of a document on. Pictures may be among them, and the last one may be
            unfinished. Or a masked document, followed by the sentinel of its first gap (fill.py): the gaps are
            filled then.
        settings: how.
        answer_start: where the text begins that the answer continues (None: after the prompt). Ids from here on
            count as one text with what is written; what is written is all that events and counts are about.
        unconditional: ids in front of the ``<break>`` of every picture that guides without its document (None: the
            family's prompt, guidance.py), a retrieved context for example.
        session: where the cache comes from and stays.
        turns: the conversation that the prompt asks for an answer to; none for the beginning of a document.
    """

    prompt: list[int]
    settings: GenerationSettings = field(default_factory=GenerationSettings)
    answer_start: int | None = None
    unconditional: list[int] | None = None
    session: Session | None = None
    turns: tuple[Message, ...] = ()


def requests_of(
    prompts: Sequence[list[int] | Request], settings: GenerationSettings | Sequence[GenerationSettings] | None
) -> list[Request]:
    """Requests of prompts that are some, or of ids with settings: one for all, drawn apart, or one for each."""
    if settings is None:
        return [prompt if isinstance(prompt, Request) else Request(prompt) for prompt in prompts]
    if isinstance(settings, GenerationSettings):
        settings = [settings.for_row(index) for index in range(len(prompts))]
    if len(settings) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts and {len(settings)} settings: give one for all, or one for each")
    return [Request(prompt, chosen) for prompt, chosen in zip(prompts, settings, strict=True)]  # type: ignore[arg-type]


def read_prompt(request: Request, grammar: Grammar) -> Cursor:
    """The cursor after a request's prompt; pictures that begin after it have the shape of its settings.

    Raises:
        ValueError: the prompt is empty, breaks the grammar, is closed, or holds mask tokens that no opened gap belongs
            to; or documents of this model do not say the shape of a picture.
    """
    v, prompt, grid = grammar.vocabulary, request.prompt, request.settings.image_grid
    if not prompt:
        raise ValueError("the prompt is empty: it must hold at least one id, with which a document begins")
    cursor = Cursor.after(grammar, prompt, grid)
    if grid is not None and grid != grammar.grid and not v.pictures.writes_size:
        raise ValueError(
            f"image_grid is {grid[0]} x {grid[1]}, and all pictures of this model have {grammar.image_tokens} tokens, "
            "since its documents do not say a picture's size; leave image_grid out"
        )
    if cursor.spans:
        _check_gaps(prompt, cursor)
    elif cursor.state not in (State.TEXT, State.IMAGE, State.IMAGE_END, State.FRAME):
        raise ValueError(
            f"the prompt is closed by {v.name(prompt[-1])}, which ends documents; give the open beginning of a document"
        )
    return cursor


def _check_gaps(prompt: list[int], cursor: Cursor) -> None:
    v = cursor.grammar.vocabulary
    if not cursor.state.is_span or not v.is_sentinel(prompt[-1]):
        raise ValueError(
            "the prompt holds mask tokens, and no gap is open after it; close it with </s> and give the sentinel of "
            "the first gap to be filled"
        )
    sentinels = [place for place, token in enumerate(prompt) if v.is_sentinel(token)]
    for number, (place, state) in enumerate(zip(sentinels, cursor.spans, strict=False)):
        if state is State.TEXT_SPAN:
            continue
        if number not in cursor.whole:
            raise ValueError(f"position {place}: a part of a picture is masked; a gap is a whole picture, or text")
        if (shape := cursor.whole[number]) != (usual := cursor.grammar.grid):
            raise ValueError(
                f"position {place}: a picture of {shape[0]} x {shape[1]} codes is masked; a gap is for one of "
                f"{usual[0]} x {usual[1]}"
            )


def tokens_of_image(grammar: Grammar, grid: tuple[int, int] | None = None) -> int:
    """What a picture takes of a budget: its ``<break>`` or frame, its codes and one id after it."""
    return Cursor(grammar, grid=grid).image_length + 1


def tokens_of_spans(spans: Sequence[State], grammar: Grammar) -> int:
    """What these gaps take at least, each with its sentinel and its ``<eoss>``."""
    codes = len(grammar.vocabulary.pictures.rows(grammar.grid))
    return sum(2 + (codes if state is State.IMAGE_SPAN else 1) for state in spans)
