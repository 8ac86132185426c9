"""Models over the joint vocabulary. Nothing here knows about files or data.

Names are imported when they are used: what is said of families needs neither torch nor `transformers`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from jam.grammar import Grammar
    from jam.models.cache import RowCache
    from jam.models.compiled import compile_layers, is_compiled
    from jam.models.cross import CrossForCausalLM
    from jam.models.cross_config import CrossConfig
    from jam.models.int8 import is_quantized, quantize
    from jam.models.single import SingleDecoder
    from jam.models.towers import JointTower, Tower
    from jam.packed import Mask
    from jam.vocabulary import Vocabulary


@runtime_checkable
class JointModel(Protocol):
    """What training, evaluation and generation need of a model: `CrossForCausalLM` and `SingleDecoder` have it."""

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


_MODULES = {
    "CrossConfig": "cross_config",
    "CrossForCausalLM": "cross",
    "JointTower": "towers",
    "RowCache": "cache",
    "SingleDecoder": "single",
    "Tower": "towers",
    "compile_layers": "compiled",
    "is_compiled": "compiled",
    "is_quantized": "int8",
    "quantize": "int8",
}
__all__ = [
    "CrossConfig",
    "CrossForCausalLM",
    "JointModel",
    "JointTower",
    "RowCache",
    "SingleDecoder",
    "Tower",
    "compile_layers",
    "is_compiled",
    "is_quantized",
    "quantize",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
