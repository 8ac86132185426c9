"""The plan of a fusion: every tensor of the result, its sources and its operation, before weights are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from jam.checkpoints import TensorInfo
from jam.checkpoints.folders import format_bytes
from jam.checkpoints.shards import DEFAULT_SHARD_BYTES, divide
from jam.checkpoints.tensors import KINDS
from jam.vocabulary import ParentRows, Vocabulary

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PretrainedConfig

Compute = Callable[..., "Iterator[Tensor]"]
"""From the tables of the sources, in order, to consecutive blocks of rows of the result."""


class Source(NamedTuple):
    """A tensor of a parent; `role` is "text" or "image"."""

    role: str
    name: str

    def __str__(self) -> str:
        return f"{self.role}:{self.name}"


class Later:
    """A function of this package by name, such as "rows.piece_means".

    A call imports the function's module, so that a plan needs no torch.
    """

    def __init__(self, name: str, /, **arguments: Any) -> None:
        self.name, self.arguments = name, arguments

    def __call__(self, *tables: Any) -> Iterator[Tensor]:
        module, _, function = self.name.partition(".")
        return getattr(import_module(f"jam.fusion.{module}"), function)(*tables, **self.arguments)


COPY = Later("tables.stored_blocks")


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor of the result.

    Args:
        sources: the parents' tensors that `compute` reads; none for a new tensor.
        operation: the computation, in words.
        kind: data type of the result, as safetensors names it.
        compute: the computation, in fp32 or wider; its blocks are rounded to `kind` when they are written.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    sources: tuple[Source, ...]
    operation: str
    compute: Compute

    @property
    def info(self) -> TensorInfo:
        return TensorInfo(self.shape, self.kind)

    @property
    def dtype(self) -> torch.dtype:
        return self.info.dtype


@dataclass(frozen=True)
class FusionPlan:
    """The result of a fusion.

    Args:
        method: "uniform", "width" or "cross".
        settings: config.json of the result.
        architecture: model class of the result.
        tensors: every stored tensor, tied tensors once.
        vocabulary: the joint vocabulary.
        image_grid: image tokens as (height, width); None in a plan made without an image tokenizer.
        rows: rows of the joint ids in a single-stream result; None for cross, whose config has rows per tower.
        notes: assumptions.
        text_tokens: if the parents' tokenizers differ, numbers of the text parent's tokens that are one token of the
            image parent, several pieces, and nothing.
    """

    method: str
    settings: dict[str, Any]
    architecture: str
    tensors: tuple[PlannedTensor, ...]
    vocabulary: Vocabulary
    image_grid: tuple[int, int] | None
    rows: ParentRows | None
    notes: list[str] = field(default_factory=list)
    text_tokens: dict[str, int] | None = None

    @cached_property
    def config(self) -> PretrainedConfig:
        """The config of the result, of `transformers`."""
        from transformers import AutoConfig

        import jam.models.cross_config  # noqa: F401  (which registers its config)

        return AutoConfig.for_model(**self.settings)

    @property
    def infos(self) -> dict[str, TensorInfo]:
        return {tensor.name: tensor.info for tensor in self.tensors}

    @property
    def parameters(self) -> int:
        return sum(tensor.info.count for tensor in self.tensors)

    @property
    def bytes(self) -> int:
        return sum(tensor.info.bytes for tensor in self.tensors)

    def to_json(self, max_shard_bytes: float = DEFAULT_SHARD_BYTES) -> dict[str, Any]:
        files = {name: shard.name for shard in divide(self.infos, max_shard_bytes) for name in shard.infos}
        return {
            "method": self.method,
            "architecture": self.architecture,
            "parameters": self.parameters,
            "bytes": self.bytes,
            "vocabulary": self.vocabulary.to_dict(),
            "text_tokens": self.text_tokens,
            "notes": self.notes,
            "tensors": [
                {
                    "name": tensor.name,
                    "shape": list(tensor.shape),
                    "dtype": KINDS[tensor.kind][0],
                    "bytes": tensor.info.bytes,
                    "file": files[tensor.name],
                    "from": [str(source) for source in tensor.sources],
                    "operation": tensor.operation,
                }
                for tensor in self.tensors
            ],
        }

    @property
    def summary(self) -> str:
        v = self.vocabulary
        return (
            f"{self.method} -> {self.architecture}: {self.parameters:,} parameters, "
            f"{format_bytes(self.bytes)}; vocabulary {v.size:,} = {v.text_size:,} text + {v.image_size:,} image "
            f"+ {v.control_size:,} control; layout of documents: {v.documents_are}"
        )
