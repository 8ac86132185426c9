"""Uniform fusion (paper eq. 1): theta = w theta_text + (1 - w) theta_image, w = 1/2; as large as one parent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jam.fusion.config import FuseConfig
from jam.fusion.method import FusionMethod
from jam.fusion.pair import Pair
from jam.fusion.plan import Compute, FusionPlan, Later
from jam.fusion.single import single_index, single_plan, single_settings
from jam.fusion.skeleton import Skeleton


class Uniform(FusionMethod):
    name = "uniform"
    options = ("weight",)

    def plan(self, pair: Pair, config: FuseConfig) -> FusionPlan:
        return uniform(pair, config.weight)

    def not_promised(self, options: Mapping[str, Any]) -> str:
        return "uniform fusion averages the parents"


def uniform(pair: Pair, weight: float = 0.5) -> FusionPlan:
    """The plan of averaging two parents of one shape; the text parent's share is `weight`.

    Raises:
        ValueError: the parents differ in architecture or shape, or `weight` is not between 0 and 1.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"--weight {weight:g}: the text parent's share is between 0 and 1")
    pair.require_one_shape("uniform")
    text_V, image_V = single_index(pair)
    rows = Later("rows.merged_table", text_V=text_V, image_V=image_V, weight=weight)
    average = "average" if weight == 0.5 else f"{weight:g} text + {1 - weight:g} image"

    def rule(name: str, target: Skeleton) -> tuple[str, Compute]:
        if name in target.vocabulary_tensors:
            return f"{average} of shared rows, copy of the others, mean row for new ones", rows
        return average, Later("averages.blockwise", weight=weight)

    return single_plan(pair, "uniform", single_settings(pair), rule)
