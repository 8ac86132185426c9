"""Reading and writing of documents as JSON lines (README, "Documents")."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jam.documents.attached import Place, Sample, attach
from jam.documents.document import Document, Gap, Message, Part, Text
from jam.documents.json_files import JsonError, json_records
from jam.documents.lost import require_none
from jam.documents.picture_paths import require_media_path
from jam.documents.pictures import DATA_URI, JPEG, Image, data_uri
from jam.files import as_path, kind_of, open_regular, parse_json, replacing

# Keys of the picture in a part of type image; `source`, and objects as values, come from chat APIs.
IMAGE_SOURCES = ("image", "image_url", "url", "path", "base64", "source")
PART_KEYS = ("type", "text", "codes", "grid", "modality")


def read_documents(path: str | Path, allowed_media_path: str | Path | None = None) -> Iterator[Document]:
    """Documents of a JSON-lines file, one by one.

    Args:
        allowed_media_path: folder below which files of pictures may be, besides the file's own folder.

    Raises:
        ValueError: a document cannot be read; the message names file and line.
    """
    path, allowed = as_path(path, "the file of documents"), require_media_path(allowed_media_path)
    if not path.exists():
        raise ValueError(f"{path}: no such file of documents")
    with open_regular(path) as file:
        try:
            for key, record in json_records(file):
                if isinstance(record, ValueError):
                    raise ValueError(f"{path}:{key}: {record}")
                yield parse_document(record, path.parent, f"{path}:{key}: ", allowed)
        except JsonError as error:
            raise ValueError(f"{path}: cannot be read to its end ({error}); is it whole?") from None


def parse_document(
    line: str | bytes, folder: Path = Path(), where: str = "", allowed_media_path: Path | None = None
) -> Document:
    """The `Document` of a JSON line; its pictures are in `folder`, or below `allowed_media_path`."""
    record = parse_json(line, f"{where}the record", "correct it")
    return parse_record(record, Sample(folder, where, allowed_media_path=allowed_media_path))


def present(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with a value; null means absent, as in tables."""
    return {name: value for name, value in fields.items() if value is not None}


def parse_record(record: Any, sample: Sample) -> Document:
    """The `Document` of an object with content or messages, whose parts may be `Text` and `Image` already.

    Pictures beside the parts go to their places (`jam.documents.attached`).

    Raises:
        ValueError: the object is no document, or a value looks like a picture and is not read.
    """
    where, fields = sample.where, present(record) if isinstance(record, dict) else {}
    if ("content" in fields) == ("messages" in fields):
        raise ValueError(f'{where}a document is an object with either "content" or "messages"')
    messages = [_parse_turn(turn, sample) for turn in _turns(fields, where)]
    read = attach(messages, fields, sample, is_caption="content" in fields)
    rest = {name: value for name, value in fields.items() if name not in {*read, "content", "messages"}}
    require_none(rest, any(isinstance(part, Image) for turn in messages for part in turn.content), where)
    extra = {name: value for name, value in rest.items() if not isinstance(value, bytes)}
    if "content" in fields:
        return Document(content=messages[0].content, extra=extra, where=where)
    return Document(messages=messages, extra=extra, where=where)


def _turns(fields: Mapping[str, Any], where: str) -> list[Any]:
    if "content" in fields:
        return [{"role": "assistant", "content": fields["content"]}]
    if not isinstance(fields["messages"], list):
        raise ValueError(f'{where}"messages" must be a list; got {kind_of(fields["messages"])}')
    return fields["messages"]


def _parse_turn(turn: Any, sample: Sample) -> Message:
    if not isinstance(turn, dict) or turn.get("role") not in ("user", "assistant", "system"):
        raise ValueError(f'{sample.where}a message needs a "role" of "user", "assistant" or "system"; got {turn!r:.80}')
    require_none({name: value for name, value in turn.items() if name != "content"}, False, sample.where)
    return Message(turn["role"], _parse_parts(turn.get("content"), sample))


def _parse_parts(parts: Any, sample: Sample) -> list[Any]:
    if isinstance(parts, str):
        return [_parse_text(parts, sample.where)]
    if not isinstance(parts, list):
        raise ValueError(f'{sample.where}"content" must be a list of parts; got {kind_of(parts)}')
    return [part if isinstance(part, Text | Image) else _parse_part(part, sample) for part in parts]


def _parse_part(part: Any, sample: Sample) -> Part | Place:
    fields = present(part) if isinstance(part, dict) else {}
    source = next((name for name in IMAGE_SOURCES if fields.get(name)), None)
    used: tuple[str, ...] = PART_KEYS
    parsed: Part | Place | None = None
    match fields:
        case {"type": "text", "text": str(text)}:
            parsed = _parse_text(text, sample.where)
        case {"type": "image" | "image_url"} if source is not None:
            used, parsed = (*PART_KEYS, source), _parse_picture(fields[source], sample)
        case {"type": "image", "codes": list(codes)} if all(type(code) is int for code in codes):
            parsed = Image(codes=codes, grid=_parse_grid(fields, sample.where), where=sample.where)
        case {"type": "gap", "modality": "text" | "image" as modality}:
            parsed = Gap(modality)
        case {"type": "image"} if "codes" not in fields:
            parsed = Place()
    if parsed is None:
        raise ValueError(
            f'{sample.where}a part is {{"type": "text", "text": ...}}, {{"type": "image", "image" or "codes": ...}} '
            f'or {{"type": "gap", "modality": "text" or "image"}}; got {part!r:.120}'
        )
    rest = {name: value for name, value in fields.items() if name not in used}
    require_none(rest, isinstance(parsed, Image), sample.where)
    return parsed


def _parse_text(text: str, where: str) -> Text:
    try:
        return Text(text)
    except ValueError as error:
        raise ValueError(f"{where}{error}") from None


def _parse_picture(source: Any, sample: Sample) -> Image:
    return source if isinstance(source, Image) else sample.picture(source)


def _parse_grid(part: dict[str, Any], where: str) -> tuple[int, int] | None:
    match part.get("grid"):
        case None:
            return None
        case [int(height), int(width)] if min(height, width) > 0:
            return height, width
        case grid:
            raise ValueError(f'{where}the "grid" of a picture is [height, width] in codes; got {grid!r:.80}')


def to_record(document: Document) -> dict[str, Any]:
    """The object for JSON lines; pictures with pixels become data URIs."""
    if document.messages:
        turns = [{"role": turn.role, "content": _to_records(turn.content)} for turn in document.messages]
        return {**document.extra, "messages": turns}
    return {**document.extra, "content": _to_records(document.content)}


def _to_records(parts: Sequence[Part]) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, Text):
            records.append({"type": "text", "text": part.text})
        elif isinstance(part, Gap):
            records.append({"type": "gap", "modality": part.modality})
        elif part.codes is not None and part.pixels is None and part.path is None:
            shape = {"grid": list(part.grid)} if part.grid is not None else {}
            records.append({"type": "image", "codes": part.codes, **shape})
        else:
            records.append({"type": "image", "image": _address(part)})
    return records


def _address(image: Image) -> str:
    """The address of a picture, or a data URI with its pixels; a JPEG file stays JPEG."""
    if image.data is not None and image.data.startswith(JPEG):
        return f"{DATA_URI}jpeg;base64,{base64.b64encode(image.data).decode()}"
    return image.path if image.path is not None and image.data is None else data_uri(image.load())


def write_documents(path: str | Path, documents: Iterable[Document]) -> None:
    """Write JSON lines atomically; half a surrogate pair in `extra` is escaped as in JSON."""
    path = as_path(path, "the file of documents")
    with replacing(path) as partial, partial.open("w", encoding="utf-8", errors="backslashreplace") as lines:
        for document in documents:
            lines.write(json.dumps(to_record(document), ensure_ascii=False) + "\n")
