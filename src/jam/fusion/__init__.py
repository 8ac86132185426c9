"""Fusion: two parents -> a plan that can be printed -> a fused folder. One short file a method.

Names are imported when they are used: settings and hashes of parents need neither torch nor transformers, whose import
takes as long as fusing small models.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jam.fusion.config import FuseConfig, find_image_tokenizer
    from jam.fusion.cross import cross_again
    from jam.fusion.execute import made_blocks
    from jam.fusion.pair import Pair, join
    from jam.fusion.parents import Parent
    from jam.fusion.plan import FusionPlan, PlannedTensor, Source
    from jam.fusion.run import fuse, make_pair, make_plan

_MODULES = {
    "FuseConfig": "config",
    "FusionPlan": "plan",
    "Pair": "pair",
    "Parent": "parents",
    "PlannedTensor": "plan",
    "Source": "plan",
    "cross_again": "cross",
    "find_image_tokenizer": "config",
    "fuse": "run",
    "join": "pair",
    "made_blocks": "execute",
    "make_pair": "run",
    "make_plan": "run",
}
__all__ = [
    "FuseConfig",
    "FusionPlan",
    "Pair",
    "Parent",
    "PlannedTensor",
    "Source",
    "cross_again",
    "find_image_tokenizer",
    "fuse",
    "join",
    "made_blocks",
    "make_pair",
    "make_plan",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
