"""`jam prepare`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from jam.api.preparing import prepare
from jam.commands.arguments import Parser, add_media, add_placement, make_parser
from jam.console import Console
from jam.console.progress import progress_bar
from jam.data import MAX_REJECTS, REJECTS

EXAMPLES = """
jam prepare captions.jsonl howto.jsonl --model fused --out shards
jam prepare captions/ text/part-000.jsonl.gz --model fused --out shards --workers 8
jam prepare pairs-{000..099}.tar articles.parquet --model fused --out shards --max-rejects 0.05
jam prepare 'datasets:owner/name?split=train&streaming=true' --model fused --out shards --device cuda
"""


def parser() -> Parser:
    parser = make_parser(
        "prepare", "Turn documents into token shards for `jam train`; an equal command resumes a killed one.", EXAMPLES
    )
    parser.add_argument(
        "documents",
        nargs="+",
        type=str,
        help="JSON lines (also .gz), Parquet, WebDataset tars, folders of such files, or datasets:NAME?split=...",
    )
    parser.add_argument("--model", type=Path, required=True, help="model folder whose tokenizers are used")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; one that is finished is not touched")
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each; the result is equal")
    parser.add_argument(
        "--max_rejects",
        type=int | float,
        default=MAX_REJECTS,
        help="documents that may be bad before the run stops: a number, or a share below 1",
    )
    add_media(parser)
    add_placement(parser, dtype=False)
    return parser


def run(settings: Namespace) -> None:
    console = Console()
    with progress_bar(console, transient=True) as progress:
        task = progress.add_task("preparing", total=None, figures="")
        first: dict[str, Any] = {}
        started = time.perf_counter()

        def on_progress(counts: dict[str, Any]) -> None:
            first.update(first or counts)  # a resumed run begins with earlier counts
            done, share = counts["documents"], counts["share"]
            seconds = max(1e-9, time.perf_counter() - started)
            rates = [f"{(counts[key] - first[key]) / seconds:.0f} {key}/s" for key in ("documents", "images")]
            figures = f"{', '.join(rates)}, {counts['tokens']} tokens, {counts['rejects']} rejected"
            progress.update(task, completed=done, total=round(done / share) if share else None, figures=figures)

        summary = prepare(
            settings.documents,
            settings.model,
            settings.out,
            workers=settings.workers,
            max_rejects=settings.max_rejects,
            device=settings.device,
            allowed_media_path=settings.allowed_media_path,
            on_progress=on_progress,
        )
    rejected = f", {summary['rejects']} rejected (see {settings.out / REJECTS})" if summary["rejects"] else ""
    console.print(
        f"{settings.out}: {summary['documents']} documents, {summary['images']} pictures, {summary['tokens']} tokens"
        f"{rejected}",
        soft_wrap=True,
        markup=False,
    )
