"""Conversion of raw records to documents, and of other projects' image tokenizers."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jam.checkpoints.folders import refuse_existing
from jam.codec.chameleon_convert import convert_chameleon
from jam.codec.files import extract_image_tokenizer, holds_image_tokenizer
from jam.data import open_sources
from jam.data.converters import HOW_TO_IMAGES, HOW_TO_RATING, RECIPES, balanced, fields_of, how_to
from jam.data.records import Record, Records
from jam.documents import Document, write_documents


@dataclass
class Converted:
    """The result of `convert_documents`.

    Attributes:
        documents: number of written documents.
        rejected: numbers of rejected records by reason.
        media: the folder of pictures outside the new file's folder; None: there are no such pictures.
    """

    documents: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    media: str | None = None


def convert_documents(
    records: Sequence[str | Path],
    recipe: str,
    out: str | Path,
    *,
    documents: int | None = None,
    category: str = "category",
    least_rating: float = HOW_TO_RATING,
    most_images: int = HOW_TO_IMAGES,
    allowed_media_path: Path | None = None,
    seed: int = 0,
) -> Converted:
    """Turn raw records into a JSON-lines file of documents, by a recipe of the paper.

    Args:
        records: JSON lines (also .gz), Parquet, WebDataset tars, folders of such files, or ``datasets:NAME?...``.
        recipe: kind of the records, a name in `jam.data.converters.RECIPES`.
        out: file to write; it must not exist.
        documents: largest number of documents, drawn evenly by category; None: all.
        category: key of a record's category.
        least_rating: howto: the rating, of 100, must be above this number.
        most_images: howto: largest number of pictures in a document.
        allowed_media_path: another folder that may hold pictures of files.
        seed: seed of the draw of `documents`.

    Raises:
        ValueError: `out` exists, an input is missing or broken, or no record is a document.
    """
    out = Path(out)
    if recipe not in RECIPES:
        raise ValueError(f"recipe is {recipe!r}; it must be one of {', '.join(RECIPES)}")
    for name, least in (("documents", 1), ("most_images", 0)):
        value = {"documents": documents, "most_images": most_images}[name]
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}; it must be {least} or more")
    refuse_existing(out)
    done = Converted()

    def document_of(record: Record) -> Document:
        fields = fields_of(record)
        if recipe == "howto":
            return how_to(fields, record, least_rating, most_images)
        return RECIPES[recipe](fields, record)

    def convert(sources: list[Records]) -> Iterator[Document]:
        for source in sources:
            for record in source.read():
                try:
                    yield _beside(document_of(record), out.parent, done)
                except ValueError as error:
                    done.rejected[str(error).removeprefix(record.where)] += 1

    converted = convert(open_sources(records, allowed_media_path))
    chosen = converted if documents is None else iter(balanced(converted, documents, seed, category))

    def counted() -> Iterator[Document]:
        for document in chosen:
            done.documents += 1
            yield document
        if not done.documents:
            reasons = "; ".join(f"{reason} ({times})" for reason, times in done.rejected.most_common(3))
            raise ValueError(f"no record is a document by the recipe {recipe}: {reasons or 'there are none'}")
        refuse_existing(out)  # another process may have written the file meanwhile

    write_documents(out, counted())
    return done


def _beside(document: Document, folder: Path, done: Converted) -> Document:
    """`document`, with paths of pictures relative to the new file's folder."""
    for image in document.images:
        if (file := image.file) is not None:
            image.path = os.path.relpath(file, folder)
            if image.path.startswith(os.pardir + os.sep):
                outside = [os.path.dirname(os.path.abspath(file)), *([done.media] if done.media else [])]
                done.media = os.path.commonpath(outside)
    return document


def convert_tokenizer(source: str | Path, out: str | Path, yaml: str | Path | None = None) -> bool:
    """Write an image tokenizer folder of Chameleon's VQGAN, or of a checkpoint of Janus or Emu3.

    Args:
        source: ``vqgan.ckpt``; or a checkpoint folder of Janus, Emu3, or Chameleon (whose VQGAN only encodes).
        out: folder to write; it must not exist.
        yaml: file that describes the ``.ckpt``; None: the ``.yaml`` beside it.

    Returns:
        True if the result can also decode.

    Raises:
        ValueError: `out` exists, or `source` holds no known image tokenizer.
    """
    source, out = Path(source), Path(out)
    refuse_existing(out)
    if not holds_image_tokenizer(source):
        return convert_chameleon(source, out, yaml)
    if yaml is not None:
        raise ValueError(f"{source} is a folder, which its config.json describes; leave {yaml} out")
    extract_image_tokenizer(source, out)
    return True
