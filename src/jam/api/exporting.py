"""Export of a run's checkpoint as a model folder."""

from __future__ import annotations

from pathlib import Path

from jam.api.loading import load
from jam.checkpoints import new_folder
from jam.checkpoints.folders import refuse_existing
from jam.codec.images import IMAGE_TOKENIZER_FOLDER
from jam.files import FileError, read_json, reason
from jam.training import DataSource, TrainConfig
from jam.training.checkpoint import checkpoints, step_of
from jam.training.export import restore


def export(
    run: str | Path, out: str | Path, step: int | None = None, model: str | Path | None = None
) -> tuple[int, str]:
    """Write the model folder `out` from a checkpoint of a run, which may still be running.

    Args:
        run: the ``out`` of `train`.
        step: step of the checkpoint; None: the last step.
        model: the folder with which the run began; None: as in the run's recipe.

    Returns:
        The step of the checkpoint, and the stage of the model.

    Raises:
        ValueError: `out` exists, `run` is no run or has no such checkpoint, or a file has changed since it was written.
    """
    run, out = Path(run), Path(out)
    refuse_existing(out)
    config, checkpoint = read_recipe(run), find_checkpoint(run, step)
    loaded = load(model or config.model, "cpu", config.dtype, check=True)
    loaded.image_tokenizer_folder()
    tensors = restore(loaded.joint, config, checkpoint)
    with new_folder(out) as folder:
        loaded.save(folder, config.stage, tensors)
    return step_of(checkpoint), config.stage


def read_recipe(run: Path) -> TrainConfig:
    """The recipe of a run. Raises ValueError for a folder that is no run of `jam train`."""
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
    """The checkpoint of a step, or the last checkpoint. Raises ValueError if there is none."""
    found = {step_of(path): path for path in checkpoints(run)}
    if not found:
        raise ValueError(f"{run} has no checkpoint yet; the recipe's checkpoint_every says when there will be one")
    if step is not None and step not in found:
        raise ValueError(f"{run} has no checkpoint of step {step}; there are {', '.join(map(str, found))}")
    return found[max(found) if step is None else step]
