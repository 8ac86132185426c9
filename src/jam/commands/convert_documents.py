"""`jam convert-documents`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from jsonargparse import Namespace

from jam.checkpoints.folders import refuse_existing
from jam.commands.arguments import Parser, add_media, make_parser, require
from jam.commands.files import require_folder_of
from jam.console import Console
from jam.data import open_sources
from jam.data.converters import HOW_TO_IMAGES, HOW_TO_RATING, RECIPES, balanced, fields_of, how_to
from jam.data.records import Record, Records
from jam.documents import Document, write_documents

EXAMPLES = """
jam convert-documents pairs-{000..099}.tar --recipe captions --out captions.jsonl
jam convert-documents articles.parquet --recipe text --out text.jsonl
jam convert-documents lima/train.jsonl --recipe lima --out lima.jsonl
jam convert-documents wikihow.jsonl --recipe howto --out howto.jsonl --documents 3000
"""


def parser() -> Parser:
    made = make_parser("convert-documents", "Turn raw records into documents, by the paper's recipes.", EXAMPLES)
    made.add_argument(
        "records",
        nargs="+",
        type=str,
        help="JSON lines (also .gz), Parquet, WebDataset tars, folders of such files, or datasets:NAME?split=...",
    )
    made.add_argument("--recipe", type=Literal[tuple(RECIPES)], required=True, help="what the records are")
    made.add_argument("--out", type=Path, required=True, help="JSON-lines file to write; it must not exist")
    made.add_argument(
        "--documents", type=int | None, default=None, help="at most so many, drawn evenly by category; default: all"
    )
    made.add_argument("--category", type=str, default="category", help="key of a record's category, for --documents")
    made.add_argument(
        "--least_rating", type=float, default=HOW_TO_RATING, help="howto: rated above this, of 100; 0: any"
    )
    made.add_argument("--most_images", type=int, default=HOW_TO_IMAGES, help="howto: most pictures of a document")
    add_media(made)
    made.add_argument("--seed", type=int, default=0, help="of the draw of --documents")
    return made


def run(settings: Namespace) -> None:
    require(settings.documents is None or settings.documents >= 1, "--documents", settings.documents, "1 or more")
    require(settings.most_images >= 0, "--most-images", settings.most_images, "0 or more")
    refuse_existing(settings.out)
    require_folder_of(settings.out, "--out")
    rejected, outside = Counter[str](), list[str]()
    sources = open_sources(settings.records, settings.allowed_media_path)
    converted = _convert(sources, settings, rejected, outside)
    documents = converted
    if settings.documents is not None:
        documents = iter(balanced(converted, settings.documents, settings.seed, settings.category))
    count = 0

    def counted() -> Iterator[Document]:
        nonlocal count
        for document in documents:
            count += 1
            yield document
        if not count:
            reasons = "; ".join(f"{reason} ({times})" for reason, times in rejected.most_common(3))
            raise ValueError(f"no record is a document by the recipe {settings.recipe}: {reasons or 'there are none'}")
        refuse_existing(settings.out)  # another process may have been faster

    write_documents(settings.out, counted())
    console = Console()
    for reason, times in rejected.most_common(10):
        console.print(f"left out: {times} x {reason}", soft_wrap=True, markup=False)
    console.print(f"{settings.out}: {count} documents", soft_wrap=True, markup=False)
    for folder in outside:
        note = f"note: pictures lie in {folder}; what reads {settings.out} needs --allowed-media-path {folder}"
        console.print(note, soft_wrap=True, markup=False)


def _convert(
    sources: list[Records], settings: Namespace, rejected: Counter[str], outside: list[str]
) -> Iterator[Document]:
    for source in sources:
        for record in source.read():
            try:
                yield _beside(_document(record, settings), settings.out.parent, outside)
            except ValueError as error:
                rejected[str(error).removeprefix(record.where)] += 1


def _document(record: Record, settings: Namespace) -> Document:
    fields = fields_of(record)
    if settings.recipe == "howto":
        return how_to(fields, record, settings.least_rating, settings.most_images)
    return RECIPES[settings.recipe](fields, record)


def _beside(document: Document, folder: Path, outside: list[str]) -> Document:
    """The same with paths of pictures relative to the folder of the new file.

    `outside` is nothing, or the folder that has all pictures so far that do not lie in `folder`.
    """
    for image in document.images:
        if (file := image.file) is not None:
            image.path = os.path.relpath(file, folder)
            if image.path.startswith(os.pardir + os.sep):
                outside[:] = [os.path.commonpath([*outside, os.path.dirname(os.path.abspath(file))])]
    return document
