"""Models over the joint vocabulary. Nothing here knows about files or data."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from jam.grammar import Grammar
from jam.models.cache import RowCache
from jam.models.compiled import compile_layers, is_compiled
from jam.models.cross import CrossForCausalLM
from jam.models.cross_config import CrossConfig
from jam.models.quantize import is_quantized, quantize
from jam.models.single import SingleStream
from jam.models.towers import JointTower, Tower
from jam.packed import Mask
from jam.vocabulary import Vocabulary


@runtime_checkable
class JointModel(Protocol):
    """What training, evaluation and generation need of a model: `CrossForCausalLM` and `SingleStream` have it."""

    @property
    def vocabulary(self) -> Vocabulary: ...

    @property
    def grammar(self) -> Grammar: ...

    @property
    def context_length(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def layer_pairs(self) -> list[list[nn.Module]]: ...

    def readout_parameters(self) -> list[nn.Parameter]: ...

    def new_cache(self, rows: int, max_length: int) -> RowCache: ...

    def hidden(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        attention_mask: Mask = None,
        cache: RowCache | None = None,
    ) -> Tensor: ...

    def logits(self, hidden: Tensor, states: Tensor) -> Tensor: ...


__all__ = [
    "CrossConfig",
    "CrossForCausalLM",
    "JointModel",
    "JointTower",
    "RowCache",
    "SingleStream",
    "Tower",
    "compile_layers",
    "is_compiled",
    "is_quantized",
    "quantize",
]
