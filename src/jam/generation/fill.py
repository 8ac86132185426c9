"""Gaps in a document, filled from both sides: the causally masked form (docs/method.md, section 4).

``</s> ... <sentinel:0> ... </s> <sentinel:0>`` is the prompt; the model writes ``span <eoss>``, and the grammar sets
the sentinel of the next gap, if there is one. A gap for a picture gets exactly a picture.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

from jam.codec import Codec
from jam.codec.text import decode_text
from jam.documents import Document, Gap, Image, Message, Part, Text
from jam.generation.marks import up_to_word
from jam.generation.request import Request
from jam.generation.result import Generation
from jam.generation.settings import GenerationSettings


def settings_to_fill(defaults: GenerationSettings, **chosen: Any) -> GenerationSettings:
    """The settings `chosen` over a model's defaults, without the defaults about whole documents.

    The default guidance scale is left out, too: the unconditional prompt is made for any picture, not for a gap's.
    """
    return defaults.changed(**{"stop": (), "min_images": 0, "max_images": None, "guidance_scale": 1.0, **chosen})


def request_to_fill(document: Document, settings: GenerationSettings, codec: Codec) -> Request:
    """Raises ValueError if the document has no gap, or one that cannot be filled (`Codec.encode_gaps`)."""
    encoded = codec.encode_gaps(document)
    prompt = [*encoded.ids, codec.vocabulary.sentinel_id(0)]
    return Request(prompt, settings, answer_start=encoded.main_start)


def filled(document: Document, generation: Generation, codec: Codec) -> Document:
    """The document with its gaps replaced; ``extra`` says how it ended, beside what it said before."""
    spans = _spans(generation, codec)
    cut = [number in generation.cut_gaps for number in range(len(spans))]
    turns = [_replace(turn.content, spans, cut, codec) for turn in document.messages]
    return Document(
        content=_replace(document.content, spans, cut, codec),
        messages=[Message(turn.role, parts) for turn, parts in zip(document.messages, turns, strict=True)],
        extra={
            **document.extra,
            "finish_reason": generation.finish_reason,
            "tokens": len(generation.new_ids),
            "images": generation.images,
            "is_cut": bool(generation.cut_gaps),
        },
        where=document.where,
    )


def _spans(generation: Generation, codec: Codec) -> list[list[int]]:
    """Ids that fill the gaps, in order."""
    v = codec.vocabulary
    marks = (v.eoss_id, *range(v.sentinel_start, v.size))
    runs = groupby(generation.new_ids, key=lambda token: token in marks)
    return [list(run) for is_mark, run in runs if not is_mark]


def _replace(parts: list[Part], spans: list[list[int]], cut: list[bool], codec: Codec) -> list[Part]:
    """The parts with their gaps replaced by the first of `spans`, which are taken away; `cut`: a limit closed them."""
    replaced: list[Part] = []
    for part in parts:
        if not isinstance(part, Gap):
            replaced.append(part)
            continue
        ids, is_cut = spans.pop(0), cut.pop(0)
        if part.modality == "image":
            codes = codec.vocabulary.to_codes([token for token in ids if codec.vocabulary.is_image(token)])
            tokenizer = codec.image_tokenizer
            replaced.append(Image(codes=codes, pixels=tokenizer.preview(codes) if tokenizer is not None else None))
        else:
            inside = bool(replaced) and isinstance(replaced[-1], Text)
            text = decode_text(codec.tokenizer, ids, inside)
            replaced.append(Text(up_to_word(text) if is_cut else text))
    return replaced
