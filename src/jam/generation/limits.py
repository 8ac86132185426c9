"""What a request may write, known before anything runs: one that cannot be met is refused with what would fit."""

from __future__ import annotations

from dataclasses import dataclass

from jam.generation.request import Request, tokens_of_image, tokens_of_spans
from jam.generation.result import FinishReason
from jam.generation.settings import GenerationSettings
from jam.grammar import Cursor, Grammar, State


@dataclass(frozen=True)
class Limits:
    """The budget of a request, and the room that it takes in the cache.

    Args:
        budget: most new ids.
        spent: the reason for which the document ends where the budget does.
        image_cost: ids that a picture takes, with one after it; 0 for a model without pictures.
        fills: whether gaps of a masked document are filled.
        unconditional: ids in front of every picture in the second slot that guides it; None: nothing is guided.
        slots: of the cache, one or two.
        slot_length: ids that each of them must hold.
    """

    budget: int
    spent: FinishReason
    image_cost: int
    fills: bool
    unconditional: tuple[int, ...] | None
    slots: int
    slot_length: int

    @classmethod
    def of(cls, request: Request, cursor: Cursor, length: int, context: int, can_read: bool) -> Limits:
        """The limits of a request.

        Args:
            cursor: after the prompt (`read_prompt`).
            length: ids that a slot of the cache holds.
            context: ids that the model takes.
            can_read: whether there is a codec that reads text.

        Raises:
            ValueError: the prompt leaves no room, or the settings ask for what this model or this cache does not have.
        """
        settings, prompt, grammar = request.settings, len(request.prompt), cursor.grammar
        _check_settings(settings, grammar, context, can_read)
        _check_unconditional(request.unconditional or [], grammar)
        image_cost = tokens_of_image(grammar, settings.image_grid) if grammar.vocabulary.image_size else 0
        fills = bool(cursor.spans)
        room = length - prompt
        budget = room if settings.max_new_tokens is None else min(settings.max_new_tokens, room)
        guided = settings.is_guided and (
            fills or settings.max_images != 0 or cursor.state in (State.IMAGE, State.FRAME)
        )
        prefix: tuple[int, ...] | None = None
        if guided:
            given = request.unconditional
            prefix = tuple(grammar.vocabulary.pictures.unconditional if given is None else given)
        limits = cls(
            budget,
            "max_new_tokens" if budget == settings.max_new_tokens else "context",
            image_cost,
            fills,
            prefix,
            slots=1 + guided,
            slot_length=max(prompt + budget, 0 if prefix is None else len(prefix) + image_cost),
        )
        limits._check(request, cursor, length)
        return limits

    def _check(self, request: Request, cursor: Cursor, length: int) -> None:
        """Raises ValueError, with what fits, if what must be written is more than the budget."""
        prompt, settings, grammar = len(request.prompt), request.settings, cursor.grammar
        if prompt >= length:
            raise ValueError(
                f"the prompt has {prompt} tokens and the model's context {length}: no room for an answer; "
                f"a prompt may have {length - 1} tokens: shorten it"
            )
        if self.slot_length > length:
            raise ValueError(
                f"a guided picture needs {self.slot_length} tokens beside the document, and the context is "
                f"{length}; shorten its unconditional prompt, or set guidance_scale to 1"
            )
        if self.fills and (settings.stop or settings.min_images or settings.max_images is not None):
            raise ValueError(
                "stop strings end a document, and min_images and max_images count its pictures; they have no meaning "
                "for gaps within one: leave them out"
            )
        given = f"(max_new_tokens {settings.max_new_tokens}, prompt {prompt}, context {length})"
        if cursor.state.is_span:
            spans = cursor.spans[cursor.next_span - 1 :]
            if (needed := tokens_of_spans(spans, grammar) - 1) > self.budget:
                raise ValueError(
                    f"the gaps need {needed} tokens or more, and {self.budget} are left {given}; raise "
                    "max_new_tokens, or shorten the document"
                )
            return
        rest = cursor.image_left + 1 if cursor.state in (State.IMAGE, State.FRAME) else 0
        if rest > self.budget:
            raise ValueError(
                f"the prompt opens a picture that needs {rest} more tokens, and {self.budget} are left {given}; "
                "raise max_new_tokens or shorten the prompt"
            )
        missing = settings.min_images - (rest > 0)
        if missing > 0 and rest + (cursor.state is State.IMAGE_END) + missing * self.image_cost > self.budget:
            fits = (rest > 0) + max(0, self.budget - rest) // self.image_cost
            raise ValueError(
                f"min_images is {settings.min_images}: at {self.image_cost} tokens a picture that does not fit "
                f"into the {self.budget} that are left {given}; {fits} would fit: ask for fewer, raise "
                "max_new_tokens or shorten the prompt"
            )


def _check_settings(settings: GenerationSettings, grammar: Grammar, context: int, can_read: bool) -> None:
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


def _check_unconditional(ids: list[int], grammar: Grammar) -> None:
    """Raises ValueError if what stands in front of an unconditional picture is not of this vocabulary."""
    size = grammar.vocabulary.size
    if wrong := [token for token in ids if type(token) is not int or not 0 <= token < size]:
        raise ValueError(f"the unconditional prompt holds {wrong[0]!r}; the ids of this model are 0 to {size - 1}")
