"""The settings of `jam fuse`, without torch: `--help` and reading files ahead do not wait for the import."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Literal

from jam.checked import check_fields
from jam.checkpoints.weights import has_weights, weight_files
from jam.fusion.hub import locate

Readout = Literal["exact", "paper"]
Init = Literal["copy", "average"]
DTypeName = Literal["float32", "bfloat16", "float16"]


@dataclass
class FuseConfig:
    """Settings of `jam fuse`.

    Args:
        text: the language model: a folder, or a hub id (owner/name or owner/name@revision).
        image: the image-token model: a folder or a hub id.
        out: folder to write; it must not exist. A plan needs none.
        image_tokenizer: folder of the image tokenizer, or of a checkpoint with an image tokenizer (Janus, Emu3);
            default: `image_tokenizer/` in the image parent, else the image parent.
        encode_only: allow an image tokenizer without a decoder, so that nobody can see the pictures of the model.
        method: new blocks between both parents ("cross"), weighted mean ("uniform"), or side by side ("width").
        every: cross: exchange after layers 0, every, 2 every, ...; 0 for no cross blocks.
        readout: cross: "exact" loses nothing of the parents, "paper" is the paper's one softmax.
        context: cross: longest sequence in tokens, for which a parent's positions are interpolated if it has fewer;
            default: the shorter of the parents' contexts.
        init: width: the blocks off the diagonal.
        weight: uniform: share of the text parent in common tensors, 0 to 1.
        sentinels: number of CM3 mask tokens; default: the parents' number, else 512.
        image_codes: number of image codes, for a plan without image tokenizer; default: from the image tokenizer.
        layout: layout of documents: "family" (the layout of the image parent's family, if the tokenizer has its
            tokens, else "chat"), "chat" (the text parent's chat template, if any), "paper", or a layout's name.
        image_start: row of the first image code in the image parent's table; default: from names of tokens or the
            size of the table.
        dtype: data type of the result; default: the parents' type.
        shard_mb: size of the result's files in MB; a run that was killed resumes after its last whole file.
        plan: only plan; config.json of each parent is enough.
        seed: seed of new weights.
    """

    text: str
    image: str
    out: str | None = None
    image_tokenizer: str | None = None
    encode_only: bool = False
    method: str = "cross"
    every: int = 2
    readout: Readout = "exact"
    context: int | None = None
    init: Init = "copy"
    weight: float = 0.5
    sentinels: int | None = None
    image_codes: int | None = None
    image_start: int | None = None
    layout: str = "family"
    dtype: DTypeName | None = None
    shard_mb: float = 2000
    plan: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def max_shard_bytes(self) -> float:
        return self.shard_mb * 1e6


def find_image_tokenizer(config: FuseConfig) -> Path | None:
    """The folder of the image tokenizer: as named in the settings, else `image_tokenizer/` in the image parent, else
    the image parent, else None.

    Raises:
        ValueError: the named folder does not exist.
    """
    if config.image_tokenizer is not None:
        if not Path(config.image_tokenizer).is_dir():
            raise ValueError(f"--image-tokenizer {config.image_tokenizer}: there is no such folder")
        return Path(config.image_tokenizer)
    from jam.codec.files import holds_image_tokenizer

    parent = locate(config.image, "image", weights=not config.plan)
    if (own := parent / "image_tokenizer").is_dir():
        return own
    return parent if holds_image_tokenizer(parent) else None


def parents_files(config: FuseConfig) -> list[Path]:
    """The weight files of both parents, alternating; none if `fuse` will refuse the settings."""
    if config.out is None or Path(config.out).exists():
        return []
    folders = [locate(config.text, "text"), locate(config.image, "image")]
    if not all(has_weights(folder) for folder in folders):
        return []
    files = zip_longest(*(weight_files(folder) for folder in folders))
    return [path for pair in files for path in pair if path is not None]
