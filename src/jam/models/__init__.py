"""Models over the joint vocabulary, without files or data.

Names are imported on use: descriptions of families need neither torch nor `transformers`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jam.models.base import JointModel
    from jam.models.cache import RowCache
    from jam.models.compiled import compile_layers, is_compiled
    from jam.models.cross import CrossForCausalLM
    from jam.models.cross_config import CrossConfig
    from jam.models.int8 import is_quantized, quantize
    from jam.models.single import SingleDecoder
    from jam.models.towers import JointTower, Tower

_MODULES = {
    "CrossConfig": "cross_config",
    "CrossForCausalLM": "cross",
    "JointModel": "base",
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
