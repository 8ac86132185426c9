"""Documents from raw records of the paper's sources (docs/data.md).

A record is an object: a JSON line, the columns of a row, or the files of a WebDataset sample by their extensions. Every
converter turns a record into a `Document`, or raises ValueError with the reason why it cannot.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jam.data.records import Record
from jam.documents import (
    MAX_RECORD,
    PICTURE_KEYS,
    Document,
    Image,
    Message,
    Part,
    Sample,
    Text,
    parse_record,
    present,
    shortened,
)
from jam.files import FileError, kind_of, parse_json

TEXT_KEYS = ("text", "caption", "txt")
ROLES = ("user", "assistant")
SPEAKERS = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}
PHRASE, REPLACEMENT = re.compile(r"\b([Tt])his article\b"), {"T": "The following answer", "t": "the following answer"}
HOW_TO_IMAGES, HOW_TO_RATING = 3, 90.0


def to_document(record: Record) -> Document:
    """The document of a record, whose keys tell its kind.

    ``content`` or ``messages``: a document in our form. ``conversations``: LIMA, ShareGPT. A text with pictures: a
    caption. A text without pictures: plain text.

    Raises:
        ValueError: the record is of no such kind, or a value looks like a picture and is not read.
    """
    if isinstance(record.value, Document):
        return record.value
    fields = fields_of(record)
    for keys, convert in (({"content", "messages"}, as_it_is), ({"conversations"}, lima)):
        if keys & fields.keys():
            return convert(fields, record)
    return _with_text(fields, record)


def name_of(record: Record) -> str | None:
    """The record's ``id``, or None if it has none or cannot be read."""
    try:
        fields = record.value.extra if isinstance(record.value, Document) else fields_of(record)
    except ValueError:
        return None
    return str(fields["id"]) if fields.get("id") is not None else None


def fields_of(record: Record) -> dict[str, Any]:
    """The record as an object; for a sample, the keys of its ``.json`` file and its other files by extension.

    Raises:
        ValueError: the record is no object, or a file of the sample cannot be read.
    """
    value = record.value
    assert not isinstance(value, Document)
    if isinstance(value, ValueError):
        raise value
    if isinstance(value, bytes):
        return present(_object(value, record))
    for content in value.values():
        if isinstance(content, ValueError):
            raise content
    fields = present(value)
    if isinstance(inner := fields.pop("json", None), bytes):
        fields = present(_object(inner, record)) | fields
    return fields


def as_it_is(fields: Mapping[str, Any], record: Record) -> Document:
    """A document in our form. In tables it may be JSON text with pictures as bytes; samples name files of pictures."""
    filled = {
        name: _list_or_text(value) if name in ("content", "messages") and isinstance(value, str) else value
        for name, value in fields.items()
    }
    return parse_record(filled, _sample(fields, record))


def plain_text(fields: Mapping[str, Any], record: Record) -> Document:
    """The text of a record, without its pictures."""
    return Document([Text(_text(fields))], extra=_extra(fields), where=record.where)


def caption(fields: Mapping[str, Any], record: Record) -> Document:
    """A text, then its picture: ``</s> text <break> image </s>``."""
    document = _with_text(fields, record)
    if not document.images:
        raise ValueError(f"no image; expected one of the keys {', '.join(PICTURE_KEYS)}, got {_names(fields)}")
    return document


def lima(fields: Mapping[str, Any], record: Record) -> Document:
    """``conversations``: texts, in turn the user's and the assistant's; or (ShareGPT, LLaVA) ``from`` and ``value``."""
    turns = fields.get("conversations")
    if isinstance(turns, list) and turns and all(_is_spoken(turn) for turn in turns):
        messages = [{"role": SPEAKERS[turn["from"]], "content": turn["value"]} for turn in turns]
    elif isinstance(turns, list) and all(isinstance(turn, str) for turn in turns):
        if len(turns) < 2 or len(turns) % 2:
            raise ValueError(f'"conversations" has {len(turns)} turns; questions and answers come in pairs')
        messages = [{"role": ROLES[number % 2], "content": turn} for number, turn in enumerate(turns)]
    else:
        raise ValueError(
            'no "conversations" that are a list of texts, or of objects with "from" '
            f'({", ".join(list(SPEAKERS)[:2])}, ...) and "value"; got {_names(fields)}'
        )
    return _document({"messages": messages}, fields, record)


def how_to(
    fields: Mapping[str, Any],
    record: Record,
    least_rating: float = HOW_TO_RATING,
    most_images: int = HOW_TO_IMAGES,
) -> Document:
    """An illustrated how-to article: its title is the question, the article is the answer.

    The record has ``rating`` (of 100), and either ``title`` and ``content`` or a question with its answer. "This
    article" becomes "the following answer" in the text; pictures beyond `most_images` are left out. With a
    `least_rating` of 0, a record needs no rating.

    Raises:
        ValueError: the rating is not above `least_rating`, or the article has no title, text or picture.
    """
    rating = fields.get("rating", 0.0 if least_rating == 0 else None)
    if not isinstance(rating, int | float):
        raise ValueError(f"no rating (a number of 100); got {rating!r}")
    if least_rating and rating <= least_rating:
        raise ValueError(f"rated {rating:g}, not above {least_rating:g}")
    article = as_it_is(fields, record)
    title = fields.get("title")
    if not isinstance(title, str):
        title = "".join(part.text for turn in article.messages[:1] for part in turn.content if isinstance(part, Text))
    if not title.strip():
        raise ValueError("no title")
    answer: list[Part] = []
    images = 0
    for part in article.answer:
        if isinstance(part, Image):
            images += 1
            if images > most_images:
                continue
        elif isinstance(part, Text):
            part = Text(PHRASE.sub(lambda found: REPLACEMENT[found[1]], part.text))
        answer.append(part)
    if not images or not any(isinstance(part, Text) and part.text.strip() for part in answer):
        raise ValueError("no text or no picture")
    turns = [Message("user", [Text(title.strip())]), Message("assistant", answer)]
    return Document(messages=turns, extra=_extra(fields), where=record.where)


Convert = Callable[[Mapping[str, Any], Record], Document]
RECIPES: dict[str, Convert] = {
    "documents": as_it_is,
    "captions": caption,
    "text": plain_text,
    "lima": lima,
    "howto": how_to,
}


def balanced(documents: Iterable[Document], count: int, seed: int, key: str = "category") -> list[Document]:
    """At most `count` documents in their original order, with equal numbers from all categories.

    `seed` draws the documents of each category. A category with too few documents leaves its share to the others.
    """
    everything = list(documents)
    groups: dict[str, list[int]] = defaultdict(list)
    for number, document in enumerate(everything):
        groups[str(document.extra.get(key, ""))].append(number)
    rng = random.Random(seed)
    for name in sorted(groups):
        rng.shuffle(groups[name])
    chosen: list[int] = []
    left = count
    smallest_first = sorted(groups, key=lambda name: (len(groups[name]), name))
    for number, name in enumerate(smallest_first):
        taken = groups[name][: left // (len(groups) - number)]
        chosen += taken
        left -= len(taken)
    return [everything[number] for number in sorted(chosen)]


def _list_or_text(value: str) -> Any:
    """The list of objects if `value` is JSON of such a list; otherwise `value`."""
    _require_short(value)
    try:
        parsed = parse_json(value, "") if value.lstrip().startswith("[") else None
    except FileError:
        return value
    return parsed if isinstance(parsed, list) and all(isinstance(part, dict) for part in parsed) else value


def _object(line: bytes, record: Record) -> dict[str, Any]:
    _require_short(line)
    fields = parse_json(line, "the record", "correct it")
    if not isinstance(fields, dict):
        raise ValueError(f"a record is an object; got {kind_of(fields)}")
    return fields


def _names(fields: Mapping[str, Any]) -> str:
    return f"the keys {shortened(', '.join(sorted(fields)), 300)}" if fields else "none"


def _text(fields: Mapping[str, Any]) -> str:
    name = next((key for key in TEXT_KEYS if fields.get(key) is not None), None)
    value = fields[name] if name is not None else None
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"the text is not UTF-8: {error}") from None
    if not isinstance(value, str):
        raise ValueError(
            f"no text; expected content or messages (a document), or one of the keys {', '.join(TEXT_KEYS)}; "
            f"got {_names(fields)}"
        )
    _require_short(value)
    return value


def _require_short(text: str | bytes) -> None:
    if len(text) > MAX_RECORD:
        raise ValueError(f"the record's text is longer than {MAX_RECORD} bytes; cut it")


def _is_spoken(turn: Any) -> bool:
    return isinstance(turn, dict) and turn.get("from") in SPEAKERS and isinstance(turn.get("value"), str)


def _with_text(fields: Mapping[str, Any], record: Record) -> Document:
    """A document of the text and the pictures, if any, in `fields`."""
    return _document({"content": _text(fields)}, fields, record)


def _document(form: dict[str, Any], fields: Mapping[str, Any], record: Record) -> Document:
    """The document with the texts of `form` and the pictures of `fields`."""
    rest = {name: value for name, value in fields.items() if name not in (*TEXT_KEYS, "conversations")}
    document = parse_record(rest | form, _sample(fields, record))
    document.extra = _extra(document.extra)
    return document


def _sample(fields: Mapping[str, Any], record: Record) -> Sample:
    files = {name: content for name, content in fields.items() if isinstance(content, bytes)}
    key = record.key.rpartition("/")[2]
    return Sample(record.folder, record.where, files, key, allowed_media_path=record.allowed_media_path)


def _extra(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON scalars to keep with the document, such as its id and licence."""
    used = {*TEXT_KEYS, *PICTURE_KEYS, "content", "messages", "conversations", "title"}
    simple = (str, int, float, bool)
    return {name: value for name, value in fields.items() if name not in used and isinstance(value, simple)}
