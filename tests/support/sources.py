"""The same documents as every kind of source, for the tests of `jam prepare`."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from jam.data import open_sources
from jam.data.converters import to_document
from jam.documents import Document
from support import tiny


def png(seed: int, size: tuple[int, int] = (9, 6)) -> bytes:
    buffer = io.BytesIO()
    tiny.picture(seed, size).save(buffer, format="PNG")
    return buffer.getvalue()


def records(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Captions, texts and conversations; pictures as `bytes`."""
    rng = np.random.default_rng(seed)
    made: list[dict[str, Any]] = []
    for number in range(count):
        text = " ".join(rng.choice(tiny.SENTENCES[:3], int(rng.integers(1, 5))))
        parts = [{"type": "text", "text": text}, {"type": "image", "image": png(number)}]
        one: dict[str, Any] = {"id": f"d{number}"}
        match number % 3:
            case 0:
                one["content"] = parts
            case 1:
                one["content"] = parts[:1]
            case 2:
                answer = {"role": "assistant", "content": [*parts, {"type": "text", "text": "more"}]}
                one["messages"] = [{"role": "user", "content": parts[:1]}, answer]
        made.append(one)
    return made


def parts_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    return record.get("content") or [part for turn in record["messages"] for part in turn["content"]]


def write_json_lines(folder: Path, made: list[dict[str, Any]], name: str = "documents.jsonl") -> Path:
    """With the pictures beside the file."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines = []
    for record in json.loads(json.dumps(made, default=lambda data: data.hex())):
        for number, part in enumerate(parts_of(record)):
            if part["type"] == "image":
                path = folder / "images" / f"{record['id']}-{number}.png"
                path.write_bytes(bytes.fromhex(part["image"]))
                part["image"] = f"images/{path.name}"
        lines.append(json.dumps(record))
    text = "\n".join(lines) + "\n"
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def write_tar(path: Path, made: list[dict[str, Any]]) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for place, record in enumerate(json.loads(json.dumps(made, default=lambda data: data.hex()))):
            files = {}
            for number, part in enumerate(parts_of(record)):
                if part["type"] == "image":
                    files[f"{number}.png"] = bytes.fromhex(part["image"])
                    part["image"] = f"{place:06d}.{number}.png"
            files["json"] = json.dumps(record).encode()
            for extension, content in files.items():
                add(archive, f"part/{place:06d}.{extension}", content)
    return path


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def write_parquet(path: Path, made: list[dict[str, Any]]) -> Path:
    import pyarrow
    import pyarrow.parquet

    rows = [{"content": None, "messages": None} | record for record in made]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=7)
    return path


def read_source(path: Path) -> list[Document | str]:
    """The documents of a source, and in the places of records that are none the reasons."""
    found: list[Document | str] = []
    for record in open_sources([path])[0].read():
        try:
            found.append(to_document(record))
        except ValueError as error:
            found.append(str(error))
    return found
