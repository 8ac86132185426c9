"""What raw records mean: the paper's sources as documents (docs/data.md).

A record is an object: a JSON line, the columns of a row, or the files of a WebDataset sample by their extensions. Every
converter takes one and gives a `Document`, or raises ValueError with the reason why it is none.
"""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from jam.data.records import Record
from jam.documents import Document, Image, Message, Part, Text, parse_record

TEXT_KEYS = ("text", "caption", "txt")
IMAGE_KEYS = ("image", "jpg", "jpeg", "png", "webp")
ROLES = ("user", "assistant")
PHRASE, REPLACEMENT = re.compile(r"\b([Tt])his article\b"), {"T": "The following answer", "t": "the following answer"}
HOW_TO_IMAGES, HOW_TO_RATING = 3, 90.0


def to_document(record: Record) -> Document:
    """A record of any kind, by its keys.

    ``content`` or ``messages``: a document as it is. ``conversations``: LIMA. A text and an image: a caption. A text
    alone: plain text.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(record.value, Document):
        return record.value
    fields = fields_of(record)
    for keys, convert in (({"content", "messages"}, as_it_is), ({"conversations"}, lima)):
        if keys & fields.keys():
            return convert(fields, record)
    if _first(fields, IMAGE_KEYS) is not None:
        return caption(fields, record)
    return plain_text(fields, record)


def name_of(record: Record) -> str | None:
    """The record's ``id``, as far as it can be read."""
    try:
        found = record.value.extra if isinstance(record.value, Document) else fields_of(record)
    except ValueError:
        return None
    return str(found["id"]) if found.get("id") is not None else None


def fields_of(record: Record) -> dict[str, Any]:
    """The record as an object; of a sample's ``.json`` file the keys, with its other files beside them."""
    value = record.value
    assert not isinstance(value, Document)
    if isinstance(value, bytes):
        return _object(value, record)
    fields = {name: content for name, content in value.items() if content is not None}
    if isinstance(inner := fields.pop("json", None), bytes):
        fields = _object(inner, record) | fields
    return fields


def as_it_is(fields: Mapping[str, Any], record: Record) -> Document:
    """A document in our form. In tables it may be JSON text, and its pictures bytes; in samples they are file names."""
    filled: dict[str, Any] = {}
    for name, value in fields.items():
        if name in ("content", "messages") and isinstance(value, str):
            value = _list_or_text(value)
        if name == "content":
            filled[name] = _parts(value, fields, record)
        elif name == "messages" and isinstance(value, list):
            filled[name] = [_turn(turn, fields, record) for turn in value]
        elif not isinstance(value, bytes):
            filled[name] = value
    return parse_record(filled, Path(record.source).parent, record.where)


def plain_text(fields: Mapping[str, Any], record: Record) -> Document:
    """A text alone."""
    return Document([Text(_text(fields, record))], extra=_extra(fields), where=record.where)


def caption(fields: Mapping[str, Any], record: Record) -> Document:
    """A text, then its picture: ``</s> text <break> image </s>``."""
    name = _first(fields, IMAGE_KEYS)
    if name is None:
        raise ValueError(f"no image; expected one of the keys {', '.join(IMAGE_KEYS)}, got {_names(fields)}")
    image = _image(fields[name], record)
    return Document([Text(_text(fields, record)), image], extra=_extra(fields), where=record.where)


def lima(fields: Mapping[str, Any], record: Record) -> Document:
    """``conversations``: texts, in turn the user's and the assistant's."""
    turns = fields.get("conversations")
    if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
        raise ValueError(f'no "conversations" that are a list of texts, got {_names(fields)}')
    if len(turns) < 2 or len(turns) % 2:
        raise ValueError(f'"conversations" has {len(turns)} turns; questions and answers come in pairs')
    messages = [Message(ROLES[number % 2], [Text(turn)]) for number, turn in enumerate(turns)]
    return Document(messages=messages, extra=_extra(fields), where=record.where)


def how_to(
    fields: Mapping[str, Any],
    record: Record,
    least_rating: float = HOW_TO_RATING,
    most_images: int = HOW_TO_IMAGES,
) -> Document:
    """An illustrated how-to article: its title is the question, the article the answer.

    The record has ``title``, ``rating`` (of 100) and ``content``; or it is a question with its answer, and has
    ``rating``. The article speaks of itself as the following answer; pictures beyond `most_images` are left out. Of a
    `least_rating` of 0 none needs to be named.

    Raises:
        ValueError: it is rated no better than `least_rating`, or has no title, text or picture.
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
    """At most `count` documents, as many of each category as there are; in the order they came in.

    Which ones of a category is drawn by `seed`. A category that has too few leaves its share to the others.
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
    """The list of objects that a text is in JSON; else the text."""
    try:
        parsed = json.loads(value) if value.lstrip().startswith("[") else None
    except (json.JSONDecodeError, RecursionError):
        return value
    return parsed if isinstance(parsed, list) and all(isinstance(part, dict) for part in parsed) else value


def _object(line: bytes, record: Record) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ValueError(f"a record is an object; got {type(fields).__name__}")
    return fields


def _first(fields: Mapping[str, Any], keys: Iterable[str]) -> str | None:
    return next((key for key in keys if fields.get(key) is not None), None)


def _names(fields: Mapping[str, Any]) -> str:
    return f"the keys {', '.join(sorted(fields))}" if fields else "none"


def _text(fields: Mapping[str, Any], record: Record) -> str:
    name = _first(fields, TEXT_KEYS)
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
    return value


def _image(value: Any, record: Record, files: Mapping[str, Any] | None = None) -> Image:
    """A picture from a table's cell, or the name of a file: one of `files` or one beside the source."""
    if isinstance(value, Image):
        return value
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return Image(data=value, path=f"of {record.key}", where=record.where)
    if not isinstance(value, str):
        raise ValueError(f"an image is a file's content or name; got {type(value).__name__}")
    key = record.key.rpartition("/")[2]
    for name in (value, value.rpartition("/")[2].removeprefix(f"{key}.")):
        if files is not None and isinstance(files.get(name), bytes):
            return Image(data=files[name], path=value, where=record.where)
    folder = Path(record.source).parent
    return Image(path=value if value.startswith("data:") else str(folder / value), where=record.where)


def _parts(parts: Any, fields: Mapping[str, Any], record: Record) -> Any:
    """Parts without empty columns, pictures found where they lie."""
    if not isinstance(parts, list):
        return parts
    made = []
    for part in parts:
        if isinstance(part, dict):
            part = {name: value for name, value in part.items() if value is not None}
            if part.get("type") == "image" and "image" in part:
                part = _image(part["image"], record, fields)
        made.append(part)
    return made


def _turn(turn: Any, fields: Mapping[str, Any], record: Record) -> Any:
    return turn | {"content": _parts(turn.get("content"), fields, record)} if isinstance(turn, dict) else turn


def _extra(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept beside the document: identity, licence and the like, as far as JSON has it."""
    used = {*TEXT_KEYS, *IMAGE_KEYS, "content", "messages", "conversations", "title"}
    simple = (str, int, float, bool)
    return {name: value for name, value in fields.items() if name not in used and isinstance(value, simple)}
