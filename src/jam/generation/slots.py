"""A slot of the cache as the rows that decode see it: its index, and what is to be read into it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(eq=False)
class Slot:
    """A slot of the cache, by its `index`, and the ids that are to be read into it next.

    It may wait for another one, the `leader`, to read the first `shared` ids, which are then copied (prefixes.py);
    `is_planned` says whether one was looked for.
    """

    index: int
    pending: list[int] = field(default_factory=list)
    restart: bool = False  # `pending` are the ids of a whole document: what the slot holds of others is forgotten first
    is_prompt: bool = False  # `pending` are the end of such a document, and not ids that have been written
    leader: Slot | None = None
    shared: int = 0
    is_planned: bool = False

    @property
    def is_unread(self) -> bool:
        """Whether a prompt is to be read before the next token is written: all of it but the last id."""
        return self.is_prompt and len(self.pending) > 1

    def hold(self, ids: list[int]) -> None:
        """Let the slot hold these ids from its beginning on, once they have been read."""
        self.pending, self.restart = ids, True
