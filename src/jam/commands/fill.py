"""`jam fill`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace

from jam.api.documents import read_all
from jam.commands.arguments import Parser, add_check, add_media, add_placement, add_speed, make_parser
from jam.commands.generate import check_page, show
from jam.commands.settings import add_settings, chosen_settings, load_chosen
from jam.console import Console
from jam.console.progress import progress_bar
from jam.documents import Document, ending
from jam.generation import GenerationSettings, Stream, settings_to_fill

EXAMPLES = """
jam fill runs/instruct/model gaps.json --out page.html
jam fill model gaps.jsonl --out page.md --temperature 0 --seed 1

a gap is a part of a document:  {"type": "gap", "modality": "text"}  or  {"type": "gap", "modality": "image"}
"""


def parser() -> Parser:
    what = "Fill gaps of documents, texts or pictures, from what stands around them."
    parser = make_parser("fill", what, EXAMPLES)
    parser.add_argument("model", type=Path, help="model folder")
    parser.add_argument("documents", type=Path, help="a document with gaps (.json), or several as JSON lines")
    page = "page to write or replace: .html or .md; default: text on stdout"
    parser.add_argument("--out", type=Path | None, default=None, help=page)
    add_settings(parser, leave_out=("stop", "min_images", "max_images"), defaults={"guidance_scale": "1"})
    add_media(parser)
    add_placement(parser, device_map=True)
    add_check(parser)
    add_speed(parser)
    return parser


def run(settings: Namespace) -> None:
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    if settings.out is not None:
        check_page(settings.out)
    chosen = chosen_settings(settings)
    GenerationSettings(**chosen)
    documents = list(read_all([settings.documents], settings.allowed_media_path))
    model = load_chosen(settings)
    with progress_bar(console, transient=True) as progress:
        task = progress.add_task("filling", total=sum(len(document.gaps) for document in documents), figures="")

        def on_progress(streams: Sequence[Stream]) -> None:
            progress.update(task, completed=sum(stream.gaps_filled for stream in streams))

        filled = model.fill_all(documents, settings_to_fill(model.settings, **chosen), on_progress)
    for document in filled:
        console.print(f"{document.extra['tokens']} tokens, finished: {ending(document)}")
        if settings.out is None:
            show(document)
    if settings.out is not None:
        page = Document(content=[part for document in filled for part in document.parts])
        page.extra = {"finish_reason": "; ".join(map(ending, filled))}
        page.save(settings.out)
        console.print(f"{settings.out}: the filled documents", markup=False)
