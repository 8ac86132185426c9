"""One request while it is decoded: where it stands in the grammar, its budget, its draws, its place in the cache."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from jam.generation.sampling import draws
from jam.generation.settings import GenerationSettings
from jam.grammar import Cursor, Grammar, State

FinishReason = Literal["end", "max_new_tokens", "context"]


@dataclass
class Generation:
    """What came out for one prompt.

    Args:
        prompt_ids: the prompt as given.
        new_ids: what was written; ends in ``</s>`` exactly when the reason is "end".
        log_probs: of each new id, under the model as it is: within the grammar, unguided, temperature 1, no top-p;
            0 in a picture's frame, which leaves no choice.
        finish_reason: "end" (the model closed the document), "max_new_tokens" or "context" (what ran out).
        images: pictures completed in `new_ids`; each is whole.
    """

    prompt_ids: list[int]
    new_ids: list[int]
    log_probs: list[float]
    finish_reason: FinishReason
    images: int


@dataclass
class Stream:
    """One row of the cache and the ids that are to be read into it next."""

    slot: int
    pending: list[int]


class Row:
    """One prompt and what has been written so far.

    Raises:
        ValueError: the prompt is empty, breaks the grammar, is closed, holds mask tokens, leaves no room for an answer,
            or opens a picture that does not fit.
    """

    def __init__(
        self, prompt: list[int], settings: GenerationSettings, grammar: Grammar, context_length: int, slot: int
    ) -> None:
        self.prompt, self.settings, self.grammar = prompt, settings, grammar
        self.cursor = _read_prompt(prompt, settings, grammar)
        if len(prompt) >= context_length:
            raise ValueError(
                f"the prompt has {len(prompt)} tokens and the model's context {context_length}: no room for an answer; "
                "shorten the prompt"
            )
        room = context_length - len(prompt)
        self.budget = room if settings.max_new_tokens is None else min(settings.max_new_tokens, room)
        self.new_ids: list[int] = []
        self.log_probs: list[float] = []
        self.finish_reason: FinishReason | None = None
        self.uniforms: list[float] = draws(settings, self.budget).tolist()
        self._images_in_prompt = self.cursor.images

        self.stream = Stream(slot, pending=list(prompt))
        self.unconditional: Stream | None = None
        if self.cursor.image_left:
            self._check_open_image()
        self._follow_frame()

    def add_guidance(self, slot: int) -> None:
        """Give the row an unconditional stream; its prefix lies in the cache whenever a picture begins."""
        self.unconditional = Stream(slot, pending=[])
        if self.guiding is not None:
            self.guiding.pending = [*self.prompt, *self.new_ids][
                -self.cursor.image_ids :
            ]  # what of the picture is there

    @property
    def state(self) -> State:
        """State of the next token."""
        return self.cursor.state

    @property
    def guiding(self) -> Stream | None:
        """The unconditional stream, if it guides the next token: image tokens only."""
        return self.unconditional if self.state is State.IMAGE else None

    @property
    def begins_image(self) -> bool:
        """Whether the next token is the first of a picture."""
        return self.state is State.IMAGE and self.cursor.codes == 0

    @property
    def remaining(self) -> int:
        """How many tokens may still be written."""
        return self.budget - len(self.new_ids)

    @property
    def images(self) -> int:
        """Pictures completed in the new tokens."""
        return self.cursor.images - self._images_in_prompt

    @property
    def may_break(self) -> bool:
        """Whether `<break>` may be offered: behind text only if a whole picture and one token more fit behind it."""
        if self.state is not State.TEXT:
            return True
        has_room = self.remaining >= self.cursor.image_length + 1
        return has_room and (self.settings.max_images is None or self.images < self.settings.max_images)

    @property
    def uniform(self) -> float:
        """The random number that decides the next token."""
        return self.uniforms[len(self.new_ids)]

    def take(self, token: int, log_prob: float) -> None:
        """Append the next token, and what of a picture's frame must follow it."""
        if math.isnan(log_prob):
            raise ValueError(f"the model's logits are nan at token {len(self.new_ids)}; try --dtype float32")
        self._append(token, log_prob)
        forced = self._follow_frame()
        if token == self.grammar.vocabulary.eos_id:
            self.finish_reason = "end"
        elif self.remaining == 0:
            self.finish_reason = "max_new_tokens" if self.budget == self.settings.max_new_tokens else "context"
        if self.guiding is not None:
            self.guiding.pending += [token, *forced]

    def _append(self, token: int, log_prob: float) -> None:
        self.cursor.feed(token)
        self.new_ids.append(token)
        self.log_probs.append(log_prob)
        self.stream.pending.append(token)

    def _follow_frame(self) -> list[int]:
        """Append what must come next, without a choice."""
        forced = self.cursor.forced()
        for token in forced:
            self._append(token, 0.0)
        return forced

    def result(self) -> Generation:
        assert self.finish_reason is not None
        return Generation(self.prompt, self.new_ids, self.log_probs, self.finish_reason, self.images)

    def _check_open_image(self) -> None:
        needed = self.cursor.image_left + 1
        if needed > self.budget:
            raise ValueError(
                f"the prompt opens a picture that needs {needed} more tokens, and {self.budget} are left "
                f"(max_new_tokens {self.settings.max_new_tokens}, prompt {len(self.prompt)}); "
                "raise max_new_tokens or shorten the prompt"
            )


def _read_prompt(prompt: list[int], settings: GenerationSettings, grammar: Grammar) -> Cursor:
    v = grammar.vocabulary
    if not prompt:
        raise ValueError(f"the prompt is empty: it must hold at least {v.name(v.begin_id)}, which begins a document")
    grammar.states(prompt)  # names the position of what breaks the grammar
    grid = settings.image_grid
    if grid is not None and grid != grammar.grid and not (v.layout is not None and v.layout.writes_size):
        raise ValueError(
            f"image_grid is {grid[0]} x {grid[1]}, and all pictures of this model have {grammar.image_tokens} tokens, "
            "since its documents do not say a picture's size; leave image_grid out"
        )
    cursor = Cursor(grammar, grid=grid)
    for token in prompt[1:]:
        cursor.feed(token)
    if cursor.spans or cursor.state not in (State.TEXT, State.IMAGE, State.IMAGE_END, State.FRAME):
        raise ValueError("the prompt is closed by </s> or holds mask tokens; give the open beginning of a document")
    return cursor
