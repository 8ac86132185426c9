"""Requests that cannot be met are refused before anything runs, with what would fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jam.generation.request import tokens_of_image, tokens_of_spans
from jam.generation.settings import GenerationSettings
from jam.grammar import Grammar, State

if TYPE_CHECKING:
    from jam.generation.active_request import ActiveRequest


def check_settings(settings: GenerationSettings, grammar: Grammar, context: int, can_read: bool) -> None:
    """Raises ValueError if the settings ask for what the model does not have."""
    if not grammar.vocabulary.image_size:
        for name, asked in (("guidance_scale", settings.is_guided), ("min_images", settings.min_images > 0)):
            if asked:
                raise ValueError(
                    f"{name} is {getattr(settings, name)}, and this model has no image tokens; leave {name} out"
                )
    else:
        size = tokens_of_image(grammar, settings.image_grid)
        most = (context - 1) // size
        for name in ("min_images", "max_images"):
            if (getattr(settings, name) or 0) > most:
                raise ValueError(
                    f"{name} is {getattr(settings, name)}; a picture takes {size} tokens, so that "
                    f"the model's context of {context} holds {most}; ask for {most} or fewer"
                )
    if settings.stop and not can_read:
        raise ValueError("stop strings need the text tokenizer; give the engine the model's codec")


def check_unconditional(ids: list[int], grammar: Grammar) -> None:
    """Raises ValueError if what stands in front of an unconditional picture is not of this vocabulary."""
    size = grammar.vocabulary.size
    if wrong := [token for token in ids if type(token) is not int or not 0 <= token < size]:
        raise ValueError(f"the unconditional prompt holds {wrong[0]!r}; the ids of this model are 0 to {size - 1}")


def check_budget(row: ActiveRequest, length: int) -> None:
    """Raises ValueError, with what fits, if what a row must write is more than its budget."""
    prompt, settings, grammar = len(row.prompt), row.settings, row.grammar
    if prompt >= length:
        raise ValueError(
            f"the prompt has {prompt} tokens and the model's context {length}: no room for an answer; "
            f"a prompt may have {length - 1} tokens: shorten it"
        )
    if row.is_guided and row.unconditional_length > length:
        raise ValueError(
            f"a guided picture needs {row.unconditional_length} tokens beside the document, and the context is "
            f"{length}; shorten its unconditional prompt, or set guidance_scale to 1"
        )
    if row.fills and (settings.stop or settings.min_images or settings.max_images is not None):
        raise ValueError(
            "stop strings end a document, and min_images and max_images count its pictures; they have no meaning for "
            "gaps within one: leave them out"
        )
    limits = f"(max_new_tokens {settings.max_new_tokens}, prompt {prompt}, context {length})"
    if row.state.is_span:
        spans = row.cursor.spans[row.cursor.next_span - 1 :]
        if (needed := tokens_of_spans(spans, grammar) - 1) > row.budget:
            raise ValueError(
                f"the gaps need {needed} tokens or more, and {row.budget} are left {limits}; raise max_new_tokens, or "
                "shorten the document"
            )
        return
    rest = row.cursor.image_left + 1 if row.state in (State.IMAGE, State.FRAME) else 0
    if rest > row.budget:
        raise ValueError(
            f"the prompt opens a picture that needs {rest} more tokens, and {row.budget} are left {limits}; "
            "raise max_new_tokens or shorten the prompt"
        )
    missing = settings.min_images - (rest > 0)
    if missing > 0 and rest + (row.state is State.IMAGE_END) + missing * row.image_cost > row.budget:
        fits = (rest > 0) + max(0, row.budget - rest) // row.image_cost
        raise ValueError(
            f"min_images is {settings.min_images}: at {row.image_cost} tokens a picture that does not fit "
            f"into the {row.budget} that are left {limits}; {fits} would fit: ask for fewer, raise max_new_tokens or "
            "shorten the prompt"
        )
