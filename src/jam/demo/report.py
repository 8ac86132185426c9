"""`jam demo --report`: every fusion of the tiny parents after an equal alignment, in one table."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from jam.api.loading import load
from jam.api.model import Model
from jam.checkpoints import write_json
from jam.console import Console
from jam.demo.measure import pictures_from_captions
from jam.demo.setup import REPORT, begin_folder, fuse_parents, perplexity, train, validation, write_corpus
from jam.demo.story import SETTINGS
from jam.tutorials import PARENTS
from jam.tutorials.corpora import held_out_captions

CAPTIONS = 100  # held-out captions for each model
DOCUMENTS = 1500  # of each corpus, for alignment


@dataclass(frozen=True)
class Fusion:
    """A row of the table; `paper`: perplexities on Wikipedia and MS-COCO (paper, tables 2 to 4; None: not given)."""

    name: str
    options: dict[str, Any]
    paper: tuple[float | None, float | None]


FUSIONS = (
    Fusion("uniform", {"method": "uniform"}, (None, 177.5)),
    Fusion("width copy", {"method": "width", "init": "copy"}, (7.34, 159.5)),
    Fusion("width average", {"method": "width", "init": "average"}, (9.0, 175.4)),
    Fusion("cross none", {"method": "cross", "every": 0}, (7.86, 153.2)),
    Fusion("cross 1", {"method": "cross", "every": 1}, (7.53, 152.4)),
    Fusion("cross 2", {"method": "cross", "every": 2}, (7.18, 149.0)),
    Fusion("cross 4", {"method": "cross", "every": 4}, (8.55, 151.7)),
)


def report(out: Path, console: Console, **changes: Any) -> list[dict[str, Any]]:
    """The figures of both parents and every fusion, aligned by the demo's recipe with `changes`.

    The function prints the table and writes ``out/report.json``.
    """
    started = time.perf_counter()
    begin_folder(out)
    parents = {name: load(PARENTS / name, device="cpu") for name in ("text", "image")}
    rows = [
        row_of("text parent", parents["text"], (None, None)),
        row_of("image parent", parents["image"], (None, 149.0)),
    ]
    codec = parents["image"].codec
    shards = [
        (write_corpus(name, DOCUMENTS, codec, out / "data" / name, console), 0.5) for name in ("texts", "captions")
    ]
    for fusion in FUSIONS:
        console.rule(fusion.name)
        name = fusion.name.replace(" ", "-")
        model = fuse_parents(out / name, console, **fusion.options)
        model = train(model, "align", shards, out / f"{name}-aligned", console, **changes)
        rows.append(row_of(fusion.name, model, fusion.paper))
    write_json(out / REPORT, rows)
    console.print(table(rows))
    minutes = (time.perf_counter() - started) / 60
    console.print(f"{out}/report.json: the same numbers, after {minutes:.0f} minutes", soft_wrap=True)
    return rows


def row_of(name: str, model: Model, paper: tuple[float | None, float | None]) -> dict[str, Any]:
    """Perplexities on text-only lessons and captioned pictures, share of right pictures for held-out captions."""
    has_images = model.codec.vocabulary.image_size > 0
    is_image_parent = has_images and model.manifest.stage == "parent"
    texts = perplexity(model.joint, validation("texts", model.codec)) if not is_image_parent else {}
    pictures = perplexity(model.joint, validation("captions", model.codec)) if has_images else {}
    right = pictures_from_captions(model, held_out_captions(CAPTIONS), SETTINGS) if has_images else None
    return {
        "model": name,
        "parameters": sum(parameter.numel() for parameter in model.joint.parameters()),
        "text_ppl": texts.get("text_ppl"),
        "image_ppl": pictures.get("image_ppl"),
        "pictures_right": right,
        "paper_wikipedia_ppl": paper[0],
        "paper_coco_ppl": paper[1],
    }


def table(rows: list[dict[str, Any]]) -> Table:
    """The rows as a table, with the ranks of fusions in our figures and in the paper's."""
    table = Table(title="after the same alignment; in brackets: rank among the fusions")
    for heading in (
        "model",
        "parameters",
        "text PPL",
        "image PPL",
        "pictures right",
        "paper: Wikipedia",
        "paper: MS-COCO",
    ):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    ranks = {key: ranking(rows, key) for key in ("text_ppl", "image_ppl", "paper_wikipedia_ppl", "paper_coco_ppl")}

    def cell(row: dict[str, Any], key: str, digits: int) -> str:
        if row[key] is None:
            return "-"
        rank = ranks[key].get(row["model"])
        return f"{row[key]:.{digits}f}" + (f" ({rank})" if rank else "")

    for row in rows:
        right = "-" if row["pictures_right"] is None else f"{row['pictures_right']:.0%}"
        table.add_row(
            row["model"],
            f"{row['parameters'] / 1e6:.2f}M",
            cell(row, "text_ppl", 3),
            cell(row, "image_ppl", 4),
            right,
            cell(row, "paper_wikipedia_ppl", 2),
            cell(row, "paper_coco_ppl", 1),
        )
    return table


def ranking(rows: list[dict[str, Any]], key: str) -> dict[str, int]:
    """Ranks of the fusions that have a figure `key`; 1 is the best, the lowest figure."""
    fusions = {fusion.name for fusion in FUSIONS}
    measured = sorted((row[key], row["model"]) for row in rows if row["model"] in fusions and row[key] is not None)
    return {name: rank for rank, (_, name) in enumerate(measured, 1)}
