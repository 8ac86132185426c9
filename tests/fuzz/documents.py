"""Documents of every kind of source: each is accepted, rejected, or the run stops; none vanishes."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from fuzz.mutations import BYTES, as_json, changed, flipped
from fuzz.outcomes import Loss
from fuzz.targets import Case, Target
from jam.data import open_sources
from jam.data.records import Record
from jam.data.workers import Block, encode_block
from jam.documents import read_documents
from support import sources, tiny

COUNT = 6
KINDS = ("lines.jsonl", "array.json", "pretty.json", "packed.jsonl.gz", "table.parquet", "samples.tar", "packed.tar.gz")


class Documents(Target):
    name = "documents"

    def make(self, folder: Path) -> None:
        made = sources.records(COUNT)
        sources.write_json_lines(folder, made, "lines.jsonl")
        records = [json.loads(line) for line in (folder / "lines.jsonl").read_text().splitlines()]
        for kind in KINDS[1:5]:
            self.write(folder / kind, records)
        for kind in KINDS[5:]:
            sources.write_tar(folder / kind, made)

    @cached_property
    def codec(self) -> Any:
        return tiny.codec(tiny.image_tokenizer(self.home.parent / "documents-vq"))

    def write(self, path: Path, records: list[Any]) -> None:
        """Records as the kind of file that a name says; what is no object stays so where the kind can hold it."""
        rng = random.Random(0)
        match path.name:
            case "lines.jsonl":
                path.write_bytes(b"\n".join(as_json(one, rng) for one in records) + b"\n")
            case "array.json":
                path.write_bytes(b"[" + b",\n".join(as_json(one, rng) for one in records) + b"]")
            case "pretty.json":
                path.write_text("\n".join(json.dumps(one, indent=1) for one in records))
            case "packed.jsonl.gz":
                path.write_bytes(gzip.compress(b"\n".join(as_json(one, rng) for one in records)))
            case "table.parquet":
                rows = [
                    {"id": f"d{place}", "content": json.dumps(one.get("content"))} for place, one in enumerate(records)
                ]
                pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=2)

    def case(self, rng: random.Random, place: Path) -> Case:
        folder = self.copy(place)
        kind = rng.choice(KINDS)
        make = rng.choice((self.one_record, self.one_record, self.file, self.picture))
        return make(folder / kind, rng)

    def one_record(self, path: Path, rng: random.Random) -> Case:
        """One record is odd: it is accepted or rejected, and so is every other one."""
        if path.suffix in (".tar", ".gz") and "tar" in path.name:
            return self.sample(path, rng)
        records = [json.loads(line) for line in (path.parent / "lines.jsonl").read_text().splitlines()]
        number = rng.randrange(COUNT)
        records[number], what = changed(records[number], rng)
        if path.name == "table.parquet" and not isinstance(records[number], dict):
            records[number] = {}
        if path.name == "pretty.json" and not isinstance(records[0], dict):
            path = path.with_name("array.json")
        self.write(path, records)
        return Case(f"{path.name}, record {number}: {what}", lambda: self.read(path, COUNT), (path.name,))

    def sample(self, path: Path, rng: random.Random) -> Case:
        """One file of an archive is odd."""
        members: list[tuple[tarfile.TarInfo, bytes]] = []
        with tarfile.open(path) as archive:
            for member in archive:
                members.append((member, archive.extractfile(member).read()))  # type: ignore[union-attr]
        number = rng.randrange(len(members))
        member, content = members[number]
        what = rng.choice(list(BYTES))
        content = BYTES[what](content, rng)
        member.size = len(content)
        members[number] = member, content
        with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
            for member, content in members:
                archive.addfile(member, io.BytesIO(content))
        return Case(f"{path.name}, {members[number][0].name}: {what}", lambda: self.read(path, COUNT), (path.name,))

    def file(self, path: Path, rng: random.Random) -> Case:
        """Bits of the file itself; records that lie elsewhere are there, or the run stops."""
        data = path.read_bytes()
        if rng.random() < 0.4:
            path.write_bytes(data[: rng.randrange(len(data))])
            # A file of lines that ends behind one of them is whole; so is a half line an error, or a record.
            least = path.read_bytes().count(b"\n") if path.name == "lines.jsonl" else COUNT
            what = f"{path.name}: {path.stat().st_size} of {len(data)} bytes"
        elif rng.random() < 0.7:
            path.write_bytes(flipped(data, rng))
            # Lines that run into one, or an id of another letter, are one record less at most for each flipped bit.
            least, what = (COUNT - 8 if path.name in KINDS[:3] else COUNT), f"{path.name}: flipped bits"
        else:
            name = rng.choice(
                [name for name in BYTES if name not in ("truncated", "flipped", "a piece twice", "longer")]
            )
            path.write_bytes(BYTES[name](data, rng))
            least, what = 0, f"{path.name}: {name}"
        return Case(what, lambda: self.read(path, least), (path.name,))

    def picture(self, path: Path, rng: random.Random) -> Case:
        """A picture beside the file is odd."""
        pictures = sorted((path.parent / "images").iterdir())
        picture = rng.choice(pictures)
        name = rng.choice(list(BYTES))
        picture.write_bytes(BYTES[name](picture.read_bytes(), rng))
        lines = path.with_name("lines.jsonl")
        return Case(f"{picture.name}: {name}", lambda: self.read(lines, COUNT), (lines.name,))

    def read(self, path: Path, least: int) -> None:
        """Read all records, as `jam prepare` does and as `read_documents` does. Raises Loss where there are too few."""
        records: list[Record] = [record for source in open_sources([path]) for record in source.read()]
        if len(records) < least:
            raise Loss(f"{path.name}: {len(records)} records, {least} or more are in it")
        results = encode_block(self.codec, Block(0, records), 64)
        if len(results) != len(records):
            raise Loss(f"{path.name}: {len(results)} results of {len(records)} records")
        for one in results:
            reason = getattr(one, "reason", "")
            if "\n" in reason:
                raise RuntimeError(f"a reason of several lines: {reason}")
        if path.suffix in (".jsonl", ".json") and (count := sum(1 for _ in read_documents(path))) < least:
            raise Loss(f"{path.name}: {count} documents are read of {least}")
