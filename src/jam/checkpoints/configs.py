"""Configs of checkpoints, read by the classes of `transformers`: no code of a checkpoint is run, or asked about."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jam.files import ANEW, FileError, read_json, reason

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# Checkpoints whose code is their own, and the same weights for the classes of `transformers`.
TWINS = {
    "Emu3-Gen": "BAAI/Emu3-Gen-hf",
    "Emu3-Chat": "BAAI/Emu3-Chat-hf",
    "Janus-Pro-7B": "deepseek-community/Janus-Pro-7B",
    "Janus-Pro-1B": "deepseek-community/Janus-Pro-1B",
    "Anole-7b-v0.1": "leloy/Anole-7b-v0.1-hf",
}
# The same by `model_type`, where the name tells nothing.
TWINS_OF_TYPES = {
    "Emu3": "BAAI/Emu3-Gen-hf and BAAI/Emu3-Chat-hf",
    "multi_modality": "deepseek-community/Janus-Pro-7B and deepseek-community/Janus-Pro-1B",
}

MOST_LAYERS = 10_000  # beyond what any model has; a config of millions is damaged, and would be made for hours


def load_config(folder: str | Path, what: str = "the checkpoint") -> PretrainedConfig:
    """The config of a folder.

    Args:
        what: names the folder in messages.

    Raises:
        ValueError: no class of `transformers` reads it, or it needs code that lies beside it; the message names the
            repository with the same weights for `transformers`, where one is known.
    """
    from transformers import AutoConfig, __version__

    path = Path(folder) / "config.json"
    raw = read_json(path, {})
    require_few_layers(raw, path)
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the classes check what they like, in their own ways
        kind, twin = raw.get("model_type"), twin_of(folder, raw.get("model_type"))
        instead = f"its weights for transformers are {twin}" if twin else "many authors publish them for it as NAME-hf"
        if isinstance(raw.get("auto_map"), dict):
            raise ValueError(
                f"{what} {folder} needs Python code of its own ({', '.join(sorted(raw['auto_map']))}), which is never "
                f"run here; {instead}: give that repository"
            ) from None
        if twin:
            raise ValueError(
                f"{what} {folder} is of the type {kind!r}, which transformers {__version__} has no class for; "
                f"{instead}: give that repository"
            ) from None
        raise FileError(f"{what} {folder}: its config.json cannot be read: {reason(error)}; {ANEW}") from None


def require_few_layers(raw: Mapping[str, Any], path: Path) -> None:
    """Raises FileError if a config, or one inside it, has more than `MOST_LAYERS` layers."""
    for values in (raw, *(value for value in raw.values() if isinstance(value, dict))):
        count = values.get("num_hidden_layers")
        if isinstance(count, int | float) and count > MOST_LAYERS:
            raise FileError(f"{path}: num_hidden_layers is {count:g}; it must be {MOST_LAYERS} or less; {ANEW}")


def twin_of(folder: str | Path, model_type: str | None = None) -> str | None:
    """The repository with the weights of a folder for the classes of `transformers`; None: none is known.

    A folder of the hub's cache is known by the name of its repository.
    """
    parts = Path(folder).resolve().parts
    names = [parts[-1], *(part.rpartition("--")[2] for part in parts if part.startswith("models--"))]
    return next((TWINS[name] for name in names if name in TWINS), TWINS_OF_TYPES.get(model_type or ""))
