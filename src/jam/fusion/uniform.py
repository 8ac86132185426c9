"""Uniform fusion (paper eq. 1): theta = 1/2 theta_text + 1/2 theta_image; as large as one parent."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from jam.fusion.pair import Pair
from jam.fusion.plan import FusionPlan
from jam.fusion.rows import merged_table
from jam.fusion.single import Combine, single_config, single_plan
from jam.fusion.skeleton import Skeleton


def uniform(pair: Pair) -> FusionPlan:
    """Plan the average of two parents of one shape.

    Raises:
        ValueError: the parents differ in architecture or shape.
    """
    pair.require_one_shape("uniform")
    rows = partial(merged_table, text_V=pair.text_index, image_V=pair.image_index)

    def rule(name: str, target: Skeleton) -> tuple[str, Combine]:
        if name in target.vocabulary_tensors:
            return "average of shared rows, copy of the others, mean row for new ones", rows
        return "average", average

    return single_plan(pair, "uniform", single_config(pair), rule)


def average(text: Tensor, image: Tensor) -> Tensor:
    return (text + image) / 2
