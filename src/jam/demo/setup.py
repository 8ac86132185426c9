"""The common part of story and report: built-in parents, corpora as shards, and training by the demo's recipes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from jam.api.loading import load
from jam.api.model import Model
from jam.api.training import make_trainer
from jam.checkpoints.folders import refuse_existing
from jam.codec import Codec, Encoded
from jam.console import Console
from jam.console.progress import progress_bar
from jam.console.training import run_training
from jam.data import prepare
from jam.data.prepare import encode_all
from jam.documents import Document
from jam.evaluation.perplexity import measure
from jam.files import read_yaml
from jam.fusion import FuseConfig, fuse
from jam.models import JointModel
from jam.models.scoring import Perplexity
from jam.training import RESULT, DataSource, StepReport, TrainConfig
from jam.training.allocator import keep_freed_blocks
from jam.tutorials import PARENTS
from jam.tutorials.corpora import captioned_pictures, interleaved_tutorials, text_tutorials

REPORT = "report.json"
MARK = ".jam-demo"  # a folder with this file may be replaced
RECIPES = Path(__file__).parent / "recipes"
VALIDATION_SEED = 1_000_003  # of documents to measure, in every corpus
TRAINING_SEED = 7  # of documents that the parents have not seen
VALIDATION = 128

CORPORA: dict[str, Callable[[int, bool], Iterator[Document]]] = {
    "texts": text_tutorials,
    "captions": captioned_pictures,
    "tutorials": interleaved_tutorials,
}


def begin_folder(out: Path) -> None:
    """Create an empty folder for a demo or report, in place of an earlier demo.

    Raises:
        ValueError: `out` exists and is no earlier demo.
    """
    if (out / MARK).is_file():
        shutil.rmtree(out)
    refuse_existing(out)
    out.mkdir(parents=True)
    (out / MARK).touch()


def fuse_parents(out: Path, console: Console, **options: object) -> Model:
    """Fuse the built-in parents into the new folder `out` and load the result."""
    config = FuseConfig(text=str(PARENTS / "text"), image=str(PARENTS / "image"), out=str(out), **options)  # type: ignore[arg-type]
    fuse(config, say=console.print)
    return load(out, device="cpu")


def write_corpus(name: str, count: int, codec: Codec, out: Path, console: Console) -> Path:
    """Write `count` training documents of a corpus as shards."""
    documents = CORPORA[name](TRAINING_SEED, False)
    return write_shards(documents, count, codec, out, f"{count} {name}", console)


def write_shards(
    documents: Iterator[Document], count: int, codec: Codec, out: Path, what: str, console: Console
) -> Path:
    """Write the first `count` documents as shards, and return `out`."""
    with progress_bar(console) as progress:
        task = progress.add_task(f"preparing {what}", total=count, figures="")
        for summary in prepare(islice(documents, count), codec, out):
            progress.update(task, completed=summary["documents"])
    return out


def validation(name: str, codec: Codec) -> list[Encoded]:
    """Encoded documents of a corpus about held-out pairs, which no training sees."""
    return list(encode_all(islice(CORPORA[name](VALIDATION_SEED, True), VALIDATION), codec))


@torch.inference_mode()
def perplexity(joint: JointModel, documents: list[Encoded]) -> dict[str, float | int | None]:
    counts = Perplexity()
    measure(joint, documents, 8, counts)
    return counts.report()


def read_recipe(name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe of the demo with `changes`."""
    return read_yaml(RECIPES / f"{name}.yaml") | changes


def train(
    model: Model,
    recipe: str,
    sources: list[tuple[Path, float]],
    out: Path,
    console: Console,
    on_step: Callable[[StepReport], None] | None = None,
    **changes: Any,
) -> Model:
    """`model`, trained in place by a recipe of the demo with `changes`, and saved to ``out/model``."""
    settings = read_recipe(recipe, changes)
    listed = [DataSource(str(path), weight) for path, weight in sources]
    config = TrainConfig(model=str(model.folder), out=str(out), sources=listed, **settings)
    keep_freed_blocks()
    run_training(make_trainer(model, config), recipe.replace("-", " "), console, on_step)
    model.manifest.stage = config.stage
    model.folder = out / RESULT
    return model
