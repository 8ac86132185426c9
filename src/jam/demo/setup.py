"""What story and report share: the built-in parents, their corpora as shards, and training by the demo's recipes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from rich.console import Console

from jam.checkpoints.folders import refuse_existing
from jam.codec import Codec, Encoded, describe_image_tokenizer
from jam.commands.arguments import read_arguments
from jam.commands.progress import run_training, track
from jam.commands.train import make_trainer, read_config
from jam.commands.train import parser as train_parser
from jam.data import prepare
from jam.data.prepare import encode_all
from jam.documents import Document
from jam.evaluation.perplexity import measure
from jam.fusion import FuseConfig, fuse
from jam.model import Model, load
from jam.models import JointModel
from jam.models.scoring import Perplexity
from jam.training import RESULT
from jam.tutorials import PARENTS
from jam.tutorials.corpora import captioned_pictures, interleaved_tutorials, text_tutorials

REPORT = "report.json"
MARK = ".jam-demo"  # the folder is ours and may be replaced
RECIPES = Path(__file__).parent / "recipes"
VALIDATION_SEED = 1_000_003
TRAINING_SEED = 7  # other documents than the parents saw
VALIDATION = 128

CORPORA: dict[str, Callable[[int, bool], Iterator[Document]]] = {
    "texts": text_tutorials,
    "captions": captioned_pictures,
    "tutorials": interleaved_tutorials,
}


def begin_folder(out: Path) -> None:
    """An empty folder for a demo or report; one that an earlier demo left is replaced.

    Raises:
        ValueError: there is something else at `out`.
    """
    if (out / MARK).is_file():
        shutil.rmtree(out)
    refuse_existing(out)
    out.mkdir(parents=True)
    (out / MARK).touch()


def fuse_parents(out: Path, console: Console, **options: object) -> Model:
    """Fuse the built-in parents into the new folder `out` and load the result."""
    config = FuseConfig(text=str(PARENTS / "text"), image=str(PARENTS / "image"), out=str(out), **options)  # type: ignore[arg-type]
    info = describe_image_tokenizer(PARENTS / "image" / "image_tokenizer")
    fuse(config, (info.codebook_size, info.grid), console)
    return load(out, device="cpu")


def write_corpus(name: str, count: int, codec: Codec, out: Path, console: Console) -> Path:
    """`count` training documents of a corpus as shards."""
    documents = islice(CORPORA[name](TRAINING_SEED, False), count)
    for _ in track(prepare(documents, codec, out), count, f"preparing {count} {name}", console):
        pass
    return out


def validation(name: str, codec: Codec) -> list[Encoded]:
    """Encoded documents of a corpus about the held-out pairs, which no training sees."""
    return list(encode_all(islice(CORPORA[name](VALIDATION_SEED, True), VALIDATION), codec))


@torch.inference_mode()
def perplexity(joint: JointModel, documents: list[Encoded]) -> dict[str, float | int | None]:
    counts = Perplexity()
    measure(joint, documents, 8, counts)
    return counts.report()


def train(
    model: Model,
    recipe: str,
    sources: list[tuple[Path, float]],
    out: Path,
    console: Console,
    options: Sequence[str] = (),
) -> Model:
    """Train by one of the demo's recipes; the result lies in ``out/model``, and is `model` itself.

    `options` stand on top of the recipe, as on the command line.
    """
    listed = ",".join(f'{{"path": "{path}", "weight": {weight}}}' for path, weight in sources)
    arguments = [
        str(RECIPES / f"{recipe}.yaml"),
        "--model",
        str(model.folder),
        "--out",
        str(out),
        "--sources",
        f"[{listed}]",
    ]
    arguments += options
    config = read_config(read_arguments(train_parser(), arguments, recipe=True))
    run_training(make_trainer(model, config), recipe.replace("-", " "), console)
    model.manifest.stage = config.stage
    model.folder = out / RESULT
    return model
