"""`jam export`."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from jam.checkpoints import new_folder
from jam.checkpoints.folders import refuse_existing
from jam.codec.images import IMAGE_TOKENIZER_FOLDER
from jam.commands.arguments import Parser, make_parser
from jam.console import Console
from jam.files import FileError, read_json, reason
from jam.model import load
from jam.training import DataSource, TrainConfig
from jam.training.checkpoint import checkpoints, step_of
from jam.training.export import restore

EXAMPLES = """
jam export runs/instruct --out instruct-latest
jam export runs/instruct --step 9000 --out instruct-9
"""


def parser() -> Parser:
    made = make_parser("export", "Make a model folder of a checkpoint of a run, which may still be going on.", EXAMPLES)
    made.add_argument("run", type=Path, help="the --out of `jam train`")
    made.add_argument("--out", type=Path, required=True, help="model folder to write; it must not exist")
    made.add_argument("--step", type=int | None, default=None, help="step of the checkpoint; default: the last")
    made.add_argument(
        "--model", type=str | None, default=None, help="folder that the run began with; default: where it was"
    )
    return made


def run(settings: Namespace) -> None:
    refuse_existing(settings.out)
    config, checkpoint = read_recipe(settings.run), find_checkpoint(settings.run, settings.step)
    model = load(settings.model or config.model, "cpu", config.dtype, check=True)
    model.image_tokenizer_folder()
    tensors = restore(model.joint, config, checkpoint)
    with new_folder(settings.out) as folder:
        model.save(folder, config.stage, tensors)
    Console().print(f"{settings.out}: the model at {checkpoint.name}, stage {config.stage}", soft_wrap=True)


def read_recipe(run: Path) -> TrainConfig:
    """The recipe that a run goes by. Raises ValueError for a folder that is none."""
    path = run / "recipe.json"
    if not run.is_dir():
        raise ValueError(f"{run}: there is no such folder")
    if not path.is_file():
        raise ValueError(f"{run} is no run of `jam train`: it has no recipe.json")
    if (run / IMAGE_TOKENIZER_FOLDER).is_dir():
        raise ValueError(f"{run} is a run of `jam train-tokenizer`; what it made is {run / IMAGE_TOKENIZER_FOLDER}")
    values = read_json(path)
    try:
        return TrainConfig(**values | {"sources": [DataSource(**source) for source in values["sources"]]})
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(f"{path} is no recipe of `jam train` ({reason(error)})") from None


def find_checkpoint(run: Path, step: int | None) -> Path:
    """That of a step, or the last. Raises ValueError if it is not there."""
    found = {step_of(path): path for path in checkpoints(run)}
    if not found:
        raise ValueError(f"{run} has no checkpoint yet; the recipe's checkpoint_every says when there will be one")
    if step is not None and step not in found:
        raise ValueError(f"{run} has no checkpoint of step {step}; there are {', '.join(map(str, found))}")
    return found[max(found) if step is None else step]
