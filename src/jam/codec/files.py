"""Image tokenizers on a disk: in a folder of their own, or inside a whole checkpoint of `transformers`.

Checkpoints of Janus and Emu3 hold theirs complete. Those of Chameleon lack the decoder (see `chameleon_convert`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jam.checkpoints import CheckpointReader, Jobs, check_tensors, new_folder, write_checkpoint, write_json
from jam.checkpoints.configs import load_config
from jam.checkpoints.folders import copy_folder
from jam.checkpoints.reader import tensor_names
from jam.files import FileError, read_json, reading

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig

HOLDERS = ("janus", "emu3")
"""Models whose checkpoints hold a complete image tokenizer, as `vq_config` describes it."""
KINDS = {"janus_vqgan": "JanusVQVAE", "emu3_vqgan": "Emu3VQVAE"}
"""The class of such an image tokenizer, by its own model type."""
PREFIXES = ("model.vqmodel.", "vqmodel.")
PROCESSOR = "preprocessor_config.json"
BLOCK = 2**20  # bytes


@dataclass(frozen=True)
class OwnFolder:
    """A folder that holds an image tokenizer and nothing else."""

    folder: Path

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def save(self, out: Path) -> None:
        """Copy it to `out`, which does not exist."""
        copy_folder(self.folder, out)

    @property
    def only_encodes(self) -> bool:
        """Whether its config says that it has no decoder, as that out of a Chameleon of `transformers` has none."""
        return read_json(self.folder / "config.json").get("has_decoder") is False

    def problem(self) -> str | None:
        """What its weights lack, in words; None where they have an encoder and a decoder.

        What is missing would be random numbers: classes of `diffusers` and `transformers` open such a folder.
        """
        files = [path for path in self.folder.iterdir() if path.suffix in (".safetensors", ".bin")]
        names = {name for path in files for name in tensor_names(path)}
        for half, what in (("encoder", "no picture could be read"), ("decoder", "no picture could be shown")):
            if not any(name.startswith(f"{half}.") for name in names):
                return f"the image tokenizer {self.folder} has no {half} among its weights: {what}"
        return None


class InsideCheckpoint:
    """The image tokenizer inside a whole checkpoint.

    Attributes:
        config: the tokenizer's own.
        infos: shape and data type of its tensors, by their names in its class.

    Raises:
        ValueError: the weights lack it, wholly or in part, or do not fit to config.json.
    """

    def __init__(self, folder: Path) -> None:
        import torch
        import transformers

        self.folder, self.config = folder, inner_config(folder)
        self._reader = CheckpointReader(folder)
        self._stored = stored_names(self._reader)
        if not self._stored:
            raise ValueError(
                f"{folder} holds no image tokenizer: none of its tensors begins with {PREFIXES[0]}, so it was left out "
                "when the checkpoint was saved; take one that has it, or another image tokenizer"
            )
        self.infos = {name: self._reader.infos[stored] for name, stored in self._stored.items()}
        network = getattr(transformers, KINDS[self.config.model_type])
        self.config.architectures = [network.__name__]
        with reading(folder / "config.json"), torch.device("meta"):
            model = network(self.config)
        expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        check_tensors(self.infos, expected, f"the image tokenizer inside {folder}")

    @property
    def bytes(self) -> int:
        return sum(info.bytes for info in self.infos.values())

    def save(self, out: Path) -> None:
        """Write it to the folder `out`: its config, its tensors as they are stored, and the limits of its pictures.

        Needs the memory of a block of rows.
        """
        out.mkdir(exist_ok=True)
        self.config.save_pretrained(out)
        if processor := read_processor(self.folder):
            write_json(out / PROCESSOR, processor)
        with Jobs(1) as jobs:
            write_checkpoint(out, self.infos, self._blocks, jobs)

    def _blocks(self, name: str) -> Iterator[Tensor]:
        info = self.infos[name]
        step = max(1, BLOCK * info.rows // max(1, info.bytes))
        for start in range(0, info.rows, step):
            yield self._reader.read_rows(self._stored[name], start, min(start + step, info.rows))


def image_tokenizer_in(folder: Path) -> OwnFolder | InsideCheckpoint:
    """The image tokenizer of a folder. Raises ValueError as `InsideCheckpoint` does."""
    return InsideCheckpoint(folder) if holds_image_tokenizer(folder) else OwnFolder(folder)


def holds_image_tokenizer(folder: str | Path) -> bool:
    """Whether a folder's ``config.json`` describes a checkpoint with a complete image tokenizer inside."""
    return _model_type(Path(folder)) in HOLDERS


def extract_image_tokenizer(source: str | Path, out: str | Path) -> None:
    """Write the image tokenizer inside a checkpoint to a folder of its own, which appears whole or not at all.

    Raises:
        ValueError: as `InsideCheckpoint`; or `out` exists, or the disk is full.
    """
    inside = InsideCheckpoint(Path(source))
    with new_folder(out, bytes_needed=inside.bytes) as folder:
        inside.save(folder)


def inner_config(folder: str | Path) -> PretrainedConfig:
    """The config of the image tokenizer inside a whole checkpoint."""
    return load_config(folder).vq_config


def stored_names(reader: CheckpointReader) -> dict[str, str]:
    """Name of every tensor of the image tokenizer in its own class -> its name in the checkpoint around it."""
    return {name.removeprefix(prefix): name for prefix in PREFIXES for name in reader.infos if name.startswith(prefix)}


def read_processor(folder: Path) -> dict[str, Any]:
    """The settings of the image processor beside a model; nothing where there are none.

    They have a file of their own, or are a part of the whole processor's file.
    """
    if (path := folder / PROCESSOR).is_file():
        return read_json(path)
    part = read_json(path := folder / "processor_config.json", {}).get("image_processor") or {}
    if not isinstance(part, dict):
        raise FileError(f"{path}: image_processor is {part!r:.80}; expected an object of settings")
    return part


def _model_type(folder: Path) -> str | None:
    try:
        return read_json(folder / "config.json", {}).get("model_type")
    except FileError:  # who reads this config for what it is says what is wrong
        return None
