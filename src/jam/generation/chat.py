"""A conversation that continues from its cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from jam.codec import Codec
from jam.documents import Document, Message, Part, Text, require_parts
from jam.generation.documents import document_of, request_for
from jam.generation.events import Event, Finished
from jam.generation.loop import EngineLoop
from jam.generation.request import Request, Session
from jam.generation.settings import GenerationSettings


class Chat:
    """Questions and answers, each of text and pictures, that a model reads once.

    Every question is put as the whole conversation is put to the model anew (`Codec.encode_prompt`); what its ids have
    in common with the ids in the cache, nearly always all but the question, is not computed again.

    Args:
        loop: of an engine with the model's codec; others may use it at the same time.
        settings: of every answer; each draws apart.
        system: what the conversation begins with.

    Attributes:
        document: the conversation so far.
    """

    def __init__(self, loop: EngineLoop, codec: Codec, settings: GenerationSettings, system: str | None = None) -> None:
        self.loop, self.codec, self.settings = loop, codec, settings
        self.document = Document(messages=[Message("system", [Text(system)])] if system else [])
        self.session = Session()

    def send(self, message: str | Sequence[Part], **settings: Any) -> Document:
        """The answer to a message as a document of content; `settings` replace the chat's for this answer.

        Raises:
            ValueError: the message is empty, or the conversation does not fit into the context any more; or the answer
                failed (`Generation.checked`), and the conversation stays as it was.
        """
        events = list(self.stream(message, **settings))
        assert isinstance(events[-1], Finished) and events[-1].document is not None
        return Document(content=events[-1].document.answer, extra=events[-1].document.extra)

    def stream(self, message: str | Sequence[Part], **settings: Any) -> Iterator[Event]:
        """As `send`, event by event; the last one, `Finished`, has the answer. Left early, nothing is kept of it.

        Raises:
            ValueError: as `send`; if the answer failed, after the events so far.
        """
        if not isinstance(message, str):
            require_parts(message, "a message")
        parts: list[Part] = [Text(message)] if isinstance(message, str) else list(message)
        turns = [*self.document.messages, Message("user", parts)]
        chosen = self.settings.changed(**settings).for_row(sum(turn.role == "user" for turn in turns) - 1)
        request = request_for(Document(messages=turns), chosen, self.codec, session=self.session)
        with closing(iter(self.loop.submit(request))) as events:
            for event in events:
                yield self._keep(turns, request, event) if isinstance(event, Finished) else event

    def close(self) -> None:
        """Give the memory back; the conversation stays, and is read again with the next question.

        Raises:
            ValueError: an answer is being written: close its stream first.
        """
        self.loop.end(self.session)

    def _keep(self, turns: list[Message], request: Request, event: Finished) -> Finished:
        document = document_of(request, event.generation.checked(), self.codec)
        self.document = Document(messages=[*turns, Message("assistant", document.answer)])
        return replace(event, document=document)
