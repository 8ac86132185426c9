"""The settings of `jam fuse`. Nothing here imports torch, so that `--help` and reading ahead do not wait."""

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
        image_tokenizer: folder of the image tokenizer, or of a checkpoint that holds one (Janus, Emu3); default:
            `image_tokenizer/` in the image parent, else the one that the parent holds.
        encode_only: take an image tokenizer without a decoder, so that nobody can see the pictures that are written.
        method: blocks between both ("cross"), a weighted mean ("uniform"), or both side by side ("width").
        every: cross: exchange after layers 0, every, 2 every, ...; 0 for no cross blocks.
        readout: cross: "exact" loses nothing of the parents, "paper" is the paper's one softmax.
        context: cross: longest sequence in tokens; positions of a parent that has fewer are interpolated; default:
            that of the parent with the shorter ones.
        init: width: what fills the blocks off the diagonal.
        weight: uniform: share of the text parent in what both have, 0 to 1.
        sentinels: number of CM3 mask tokens; default: as many as the parents have, else 512.
        image_codes: number of image codes, for a plan without image tokenizer; default: the tokenizer's.
        layout: of documents: "family" is that of the image parent's family, if it has one and the tokenizer
            its tokens, else "chat"; "chat" asks by the text parent's chat template, if it has one; "paper"; or a
            layout's name.
        image_start: row of the first image code in the image parent's table; default: where names of
            tokens or the size of its table say.
        dtype: data type of the result; default: the parents'.
        shard_mb: size of the result's files in MB; a run that was killed goes on behind its last whole file.
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
    """The folder named in the settings, else `image_tokenizer/` in the image parent, else that parent, if it holds one.

    Raises:
        ValueError: the folder that is named does not exist.
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
    """The files of both parents' weights, in turn; none where `fuse` will find a mistake."""
    if config.out is None or Path(config.out).exists():
        return []
    folders = [locate(config.text, "text"), locate(config.image, "image")]
    if not all(has_weights(folder) for folder in folders):
        return []
    files = zip_longest(*(weight_files(folder) for folder in folders))
    return [path for both in files for path in both if path is not None]
