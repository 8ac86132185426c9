"""Fusion: two parents -> a plan that can be printed -> a fused folder. One short file a method."""

from __future__ import annotations

from jam.fusion.fuse import FuseConfig, find_image_tokenizer, fuse, make_pair, make_plan
from jam.fusion.pair import Pair, join
from jam.fusion.parents import Parent
from jam.fusion.plan import FusionPlan, PlannedTensor, Source

__all__ = [
    "FuseConfig",
    "FusionPlan",
    "Pair",
    "Parent",
    "PlannedTensor",
    "Source",
    "find_image_tokenizer",
    "fuse",
    "join",
    "make_pair",
    "make_plan",
]
