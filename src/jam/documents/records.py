"""Documents as JSON lines (README, "Documents"), in and out."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jam.documents.document import Document, Gap, Message, Part, Text
from jam.documents.pictures import DATA_URI, JPEG, Image, data_uri


def read_documents(path: str | Path) -> Iterator[Document]:
    """Documents of a JSON-lines file, one by one. Raises ValueError that names file and line."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file of documents")
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield parse_document(line, path.parent, f"{path}:{number}: ")


def parse_document(line: str | bytes, folder: Path = Path(), where: str = "") -> Document:
    """One JSON line to a `Document`; paths of pictures are relative to `folder`."""
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{where}not valid JSON: {error}") from None
    return parse_record(record, folder, where)


def parse_record(record: Any, folder: Path = Path(), where: str = "") -> Document:
    """An object with content or messages to a `Document`; a part may be a `Text` or an `Image` already."""
    if not isinstance(record, dict) or ("content" in record) == ("messages" in record):
        raise ValueError(f'{where}a document is an object with either "content" or "messages"')
    extra = {key: value for key, value in record.items() if key not in ("content", "messages")}
    if "content" in record:
        return Document(content=_parse_parts(record["content"], folder, where), extra=extra, where=where)
    if not isinstance(record["messages"], list):
        raise ValueError(f'{where}"messages" must be a list; got {type(record["messages"]).__name__}')
    messages = []
    for message in record["messages"]:
        if not isinstance(message, dict) or message.get("role") not in ("user", "assistant", "system"):
            raise ValueError(f'{where}a message needs a "role" of "user", "assistant" or "system"; got {message!r:.80}')
        messages.append(Message(message["role"], _parse_parts(message.get("content"), folder, where)))
    return Document(messages=messages, extra=extra, where=where)


def _parse_parts(parts: Any, folder: Path, where: str) -> list[Part]:
    if isinstance(parts, str):
        return [_parse_text(parts, where)]
    if not isinstance(parts, list):
        raise ValueError(f'{where}"content" must be a list of parts; got {type(parts).__name__}')
    parsed: list[Part] = []
    for part in parts:
        match part:
            case Text() | Image():
                parsed.append(part)
            case {"type": "text", "text": str(text)}:
                parsed.append(_parse_text(text, where))
            case {"type": "image", "image": str(name)}:
                path = name if name.startswith(DATA_URI) else str(folder / name)
                parsed.append(Image(path=path, where=where))
            case {"type": "image", "codes": list(codes)} if all(type(code) is int for code in codes):
                parsed.append(Image(codes=codes, grid=_parse_grid(part, where), where=where))
            case {"type": "gap", "modality": "text" | "image" as modality}:
                parsed.append(Gap(modality))
            case _:
                raise ValueError(
                    f'{where}a part is {{"type": "text", "text": ...}}, {{"type": "image", "image" or "codes": ...}} '
                    f'or {{"type": "gap", "modality": "text" or "image"}}; got {part!r:.120}'
                )
    return parsed


def _parse_text(text: str, where: str) -> Text:
    try:
        return Text(text)
    except ValueError as error:
        raise ValueError(f"{where}{error}") from None


def _parse_grid(part: dict[str, Any], where: str) -> tuple[int, int] | None:
    match part.get("grid"):
        case None:
            return None
        case [int(height), int(width)] if min(height, width) > 0:
            return height, width
        case grid:
            raise ValueError(f'{where}the "grid" of a picture is [height, width] in codes; got {grid!r:.80}')


def to_record(document: Document) -> dict[str, Any]:
    """The JSON-lines form; pictures with pixels become data URIs."""
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
    """Where a picture is, or a data URI that holds it; a JPEG file stays one."""
    if image.data is not None and image.data.startswith(JPEG):
        return f"{DATA_URI}jpeg;base64,{base64.b64encode(image.data).decode()}"
    return image.path if image.path is not None and image.data is None else data_uri(image.load())


def write_documents(path: str | Path, documents: Iterable[Document]) -> None:
    """Write JSON lines; a half of a surrogate pair in `extra` stays as JSON escapes it."""
    with Path(path).open("w", encoding="utf-8", errors="backslashreplace") as lines:
        for document in documents:
            lines.write(json.dumps(to_record(document), ensure_ascii=False) + "\n")
