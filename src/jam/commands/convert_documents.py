"""`jam convert-documents`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from jsonargparse import Namespace

from jam.api.converting import convert_documents
from jam.checkpoints.folders import refuse_existing
from jam.commands.arguments import Parser, add_media, make_parser
from jam.commands.files import require_folder_of
from jam.console import Console
from jam.data.converters import HOW_TO_IMAGES, HOW_TO_RATING, RECIPES

EXAMPLES = """
jam convert-documents pairs-{000..099}.tar --recipe captions --out captions.jsonl
jam convert-documents articles.parquet --recipe text --out text.jsonl
jam convert-documents lima/train.jsonl --recipe lima --out lima.jsonl
jam convert-documents wikihow.jsonl --recipe howto --out howto.jsonl --documents 3000
"""


def parser() -> Parser:
    parser = make_parser("convert-documents", "Turn raw records into documents, by the paper's recipes.", EXAMPLES)
    parser.add_argument(
        "records",
        nargs="+",
        type=str,
        help="JSON lines (also .gz), Parquet, WebDataset tars, folders of such files, or datasets:NAME?split=...",
    )
    parser.add_argument("--recipe", type=Literal[tuple(RECIPES)], required=True, help="what the records are")
    parser.add_argument("--out", type=Path, required=True, help="JSON-lines file to write; it must not exist")
    parser.add_argument(
        "--documents", type=int | None, default=None, help="most documents, drawn evenly by category; default: all"
    )
    parser.add_argument("--category", type=str, default="category", help="key of a record's category, for --documents")
    parser.add_argument(
        "--least_rating", type=float, default=HOW_TO_RATING, help="howto: rated above this, of 100; 0: any"
    )
    parser.add_argument("--most_images", type=int, default=HOW_TO_IMAGES, help="howto: most pictures of a document")
    add_media(parser)
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw of --documents")
    return parser


def run(settings: Namespace) -> None:
    refuse_existing(settings.out)
    require_folder_of(settings.out, "--out")
    done = convert_documents(
        settings.records,
        settings.recipe,
        settings.out,
        documents=settings.documents,
        category=settings.category,
        least_rating=settings.least_rating,
        most_images=settings.most_images,
        allowed_media_path=settings.allowed_media_path,
        seed=settings.seed,
    )
    console = Console(soft_wrap=True)
    for reason, times in done.rejected.most_common(10):
        console.print(f"left out: {times} x {reason}")
    console.print(f"{settings.out}: {done.documents} documents")
    if done.media is not None:
        console.print(
            f"note: pictures are in {done.media}; a reader of {settings.out} needs --allowed-media-path {done.media}"
        )
