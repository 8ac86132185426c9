"""Configs of checkpoints, read by the classes of `transformers`; code of a checkpoint never runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jam.checked import shown
from jam.files import ANEW, FileError, read_json, reason

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# Checkpoints with code of their own, and repositories with equal weights for the classes of `transformers`.
TWINS = {
    "Emu3-Gen": "BAAI/Emu3-Gen-hf",
    "Emu3-Chat": "BAAI/Emu3-Chat-hf",
    "Janus-Pro-7B": "deepseek-community/Janus-Pro-7B",
    "Janus-Pro-1B": "deepseek-community/Janus-Pro-1B",
    "Anole-7b-v0.1": "leloy/Anole-7b-v0.1-hf",
}
# Repositories by `model_type`, for names that are not in `TWINS`.
TWINS_OF_TYPES = {
    "Emu3": "BAAI/Emu3-Gen-hf and BAAI/Emu3-Chat-hf",
    "multi_modality": "deepseek-community/Janus-Pro-7B and deepseek-community/Janus-Pro-1B",
}

# Limits that no model reaches: libraries would build millions of modules for hours.
MOST_LAYERS, MOST_BLOCKS, MOST_LEVELS, MOST_CHANNELS, MOST_CODES = 10_000, 32, 16, 2**14, 2**24
MOST: dict[str, float] = dict.fromkeys(("num_hidden_layers", "depth"), MOST_LAYERS)
MOST |= dict.fromkeys(("layers_per_block", "num_res_blocks"), MOST_BLOCKS)
MOST |= dict.fromkeys(("in_channels", "out_channels", "out_ch", "base_channels", "ch", "embed_dim"), MOST_CHANNELS)
MOST |= dict.fromkeys(("latent_channels", "z_channels", "vq_embed_dim", "code_channels"), MOST_CHANNELS)
MOST |= {"discriminator_channels": MOST_CHANNELS, "patch": 64, "resolution": 2**15}
MOST |= dict.fromkeys(("num_vq_embeddings", "num_embeddings", "n_embed", "codebook_size"), MOST_CODES)
# Lists with an entry for each level of an image tokenizer, and the limits of an entry.
LEVELS: dict[str, float] = dict.fromkeys(
    ("block_out_channels", "channels", "channel_multiplier", "ch_mult"), MOST_CHANNELS
)
LEVELS |= dict.fromkeys(("down_block_types", "up_block_types", "attn_resolutions"), float("inf"))


def load_config(folder: str | Path, what: str = "the checkpoint") -> PretrainedConfig:
    """The config of a folder.

    Args:
        what: name of the folder's contents in messages.

    Raises:
        ValueError: no class of `transformers` reads the config, or the checkpoint needs its own code; the message names
            the repository with equal weights for `transformers`, if known.
    """
    from transformers import AutoConfig, __version__

    path = Path(folder) / "config.json"
    raw = read_json(path)
    require_sizes(raw, path)
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the classes raise any error
        kind = raw.get("model_type")
        twin = twin_of(folder, kind if isinstance(kind, str) else None)
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


def require_sizes(raw: Mapping[str, Any], path: Path) -> None:
    """Raises FileError if a config, or an inner config, exceeds a limit that no model reaches."""
    if problem := too_large(raw):
        raise FileError(f"{path}: {problem}; {ANEW}")


def too_large(values: Mapping[str, Any]) -> str | None:
    """The message about the first setting, or inner setting, that exceeds a limit; None if there is none."""
    for name, value in values.items():
        if isinstance(value, dict):
            if problem := too_large(value):
                return problem
        elif isinstance(value, list | tuple) and name in LEVELS:
            if len(value) > MOST_LEVELS:
                return f"{name} has {len(value)} entries; it must have {MOST_LEVELS} or less"
            for entry in value:
                if isinstance(entry, int | float) and entry > LEVELS[name]:
                    return f"{name} has {shown(entry)}; it must be {LEVELS[name]} or less"
        elif isinstance(value, int | float) and value > MOST.get(name, float("inf")):
            return f"{name} is {shown(value)}; it must be {MOST[name]} or less"
    return None


def twin_of(folder: str | Path, model_type: str | None = None) -> str | None:
    """The repository with the weights of a folder for the classes of `transformers`, or None if unknown.

    A folder of the hub's cache is found by the name of its repository.
    """
    parts = Path(folder).resolve().parts
    names = [parts[-1], *(part.rpartition("--")[2] for part in parts if part.startswith("models--"))]
    return next((TWINS[name] for name in names if name in TWINS), TWINS_OF_TYPES.get(model_type or ""))
