"""Between documents and what the engine reads and writes."""

from __future__ import annotations

from collections.abc import Sequence

from jam.codec import Codec
from jam.documents import Document, Message, Part, Text, require_parts
from jam.generation.request import Request, Session
from jam.generation.result import Generation
from jam.generation.settings import GenerationSettings


def request_for(
    prompt: str | Document,
    settings: GenerationSettings,
    codec: Codec,
    begin: str | Sequence[Part] = (),
    session: Session | None = None,
) -> Request:
    """A request for the answer to a question, or for the continuation of a document of content.

    Args:
        begin: what the answer begins with; it is part of the document, and not of what is counted as new.

    Raises:
        ValueError: the prompt is empty, or has gaps.
    """
    if not isinstance(prompt, str | Document):
        raise ValueError(f"a prompt is {prompt!r:.80}; give a question as a string, or a Document")
    if not isinstance(begin, str):
        require_parts(begin, "begin")
    parts: list[Part] = [Text(begin)] if isinstance(begin, str) and begin else list(begin)  # type: ignore[arg-type]
    if isinstance(prompt, Document) and not prompt.messages:
        ids = codec.encode_prompt(Document(content=[*prompt.content, *parts], where=prompt.where))
        return Request(ids, settings, answer_start=codec.vocabulary.opening_of(ids), session=session)
    turns = [Message("user", [Text(prompt)])] if isinstance(prompt, str) else prompt.messages
    ids = codec.encode_prompt(Document(messages=turns))
    begun = codec.encode_beginning(parts) if parts else []
    return Request(ids + begun, settings, answer_start=len(ids), session=session, turns=tuple(turns))


def document_of(request: Request, generation: Generation, codec: Codec) -> Document:
    """The prompt with what was written: the turns and the answer, or content; ``extra`` says how it came about."""
    answer_start = len(request.prompt) if request.answer_start is None else request.answer_start
    document = codec.decode([*generation.prompt_ids, *generation.new_ids], answer_start)
    if request.turns:
        document.messages = [*request.turns, document.messages[-1]]
    if generation.text_end is not None:
        last = document.parts[-1]
        assert isinstance(last, Text)
        last.text = last.text[: generation.text_end]
    document.extra = {
        "template": codec.template.name,
        "finish_reason": generation.finish_reason,
        "tokens": len(generation.new_ids),
        "images": generation.images,
        "is_cut": generation.is_cut,
    }
    return document
