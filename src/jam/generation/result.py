"""What comes out for a request, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

FinishReason = Literal["end", "stop", "max_new_tokens", "context", "cancelled", "failed"]


@dataclass
class Generation:
    """What came out for one request.

    Args:
        prompt_ids: the prompt as given.
        new_ids: what was written, whole pictures and, where a text tokenizer is at hand, whole sentences or words
            (`is_cut`): what a budget cut short is left out. Ends in ``</s>`` exactly when the reason is "end" (for gaps
            in ``<eoss>``).
        log_probs: of each new id, under the model as it is: within the grammar, unguided, temperature 1, every id
            possible. 0 where the grammar left no choice.
        finish_reason: "end" (the model closed the document, or the gaps are filled), "stop" (a stop string came),
            "max_new_tokens" or "context" (what ran out), "cancelled", "failed" (the model's logits were not finite, or
            a step raised an error).
        images: pictures completed in `new_ids`; each is whole.
        text_end: characters of the last text that stay, where a stop string cuts it.
        error: what the step raised in which the document failed; None: nothing.
        is_cut: a limit ended the last text within a sentence, after a whole word where it has one.
        cut_gaps: gaps, counted from 0, whose texts a limit closed.
    """

    prompt_ids: list[int]
    new_ids: list[int]
    log_probs: list[float]
    finish_reason: FinishReason
    images: int
    text_end: int | None = None
    error: BaseException | None = field(default=None, compare=False)
    is_cut: bool = False
    cut_gaps: list[int] = field(default_factory=list)

    def checked(self) -> Generation:
        """Itself. Raises ValueError if it failed."""
        if self.finish_reason == "failed":
            behind = f"behind a prompt of {len(self.prompt_ids)} tokens and {len(self.new_ids)} new ones"
            if self.error is not None:
                raise ValueError(
                    f"a step {behind} raised {type(self.error).__name__}: {self.error}, which ended all documents of "
                    "this step; ask again, for one document at a time if that is raised again"
                ) from self.error
            raise ValueError(
                f"the model's logits were not finite (nan) {behind}; try --dtype float32, and a smaller guidance scale"
            )
        return self
