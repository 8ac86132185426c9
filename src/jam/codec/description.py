"""What the config.json of an image tokenizer says of its codes and pictures; needs neither torch nor `transformers`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jam.checkpoints.configs import require_sizes
from jam.codec.coders import CODERS
from jam.codec.files import holds_image_tokenizer, inner_config
from jam.codec.info import ImageTokenizerInfo
from jam.files import FileError, read_json, reading


def describe_image_tokenizer(folder: str | Path) -> ImageTokenizerInfo:
    """Read codebook size and grid without loading weights.

    Args:
        folder: of an image tokenizer, or of a whole checkpoint that holds one (`codec.files.HOLDERS`).

    Raises:
        ValueError: there is none, or one of a class that is not known.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        hint = "; make one of vqgan.ckpt with `jam convert-tokenizer`" if any(Path(folder).glob("*.ckpt")) else ""
        raise ValueError(f"{folder}: no image tokenizer here (config.json is missing){hint}")
    config = read_json(path)
    require_sizes(config, path)
    if holds_image_tokenizer(folder):
        config = inner_config(folder).to_dict()
    with reading(path):
        return _described(Path(folder), path, config)


def _described(folder: Path, path: Path, config: dict[str, Any]) -> ImageTokenizerInfo:
    """What the config of an image tokenizer says; of a damaged one, `int` and the keys raise what they like."""
    kind = config.get("_class_name") or config.get("model_type")
    if kind in CODERS:
        return CODERS[kind].describe(kind, folder, config)
    if kind == "chameleon_vqgan":
        raise FileError(
            f"{path}: this image tokenizer (ChameleonVQVAE) only encodes, so no picture could be shown; make "
            "a whole one of the original vqgan.ckpt with `jam convert-tokenizer`"
        )
    if kind == "chameleon":
        raise FileError(f"{path}: this is a whole model; make its image tokenizer with `jam convert-tokenizer`")
    raise FileError(f"{path}: image tokenizer {kind!r} is not known; known: {', '.join(CODERS)}")
