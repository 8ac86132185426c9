"""Uniform fusion (paper eq. 1): theta = w theta_text + (1 - w) theta_image, w = 1/2; as large as one parent."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from jam.fusion.pair import Pair
from jam.fusion.plan import Compute, FusionPlan
from jam.fusion.rows import merged_table
from jam.fusion.single import single_config, single_index, single_plan
from jam.fusion.skeleton import Skeleton
from jam.fusion.tables import Table


def uniform(pair: Pair, weight: float = 0.5) -> FusionPlan:
    """Plan the average of two parents of one shape, in which the text parent has the share `weight`.

    Raises:
        ValueError: the parents differ in architecture or shape, or the weight is no share.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"--weight {weight:g}: the text parent's share is between 0 and 1")
    pair.require_one_shape("uniform")
    mix = partial(mixed, weight=weight)
    text_V, image_V = single_index(pair)
    rows = partial(merged_table, text_V=text_V, image_V=image_V, mix=mix)
    average = "average" if weight == 0.5 else f"{weight:g} text + {1 - weight:g} image"

    def rule(name: str, target: Skeleton) -> tuple[str, Compute]:
        if name in target.vocabulary_tensors:
            return f"{average} of shared rows, copy of the others, mean row for new ones", rows
        return average, partial(blockwise, weight=weight)

    return single_plan(pair, "uniform", single_config(pair), rule)


def blockwise(text: Table, image: Table, *, weight: float) -> Iterator[Tensor]:
    return (mixed(*blocks, weight=weight) for blocks in zip(text.blocks(), image.blocks(), strict=True))


def mixed(text: Tensor, image: Tensor, *, weight: float) -> Tensor:
    """``weight text + (1 - weight) image``, in place of `text`, which is overwritten.

    The second product is added as it is, without a rounding of its own, and shares that do not add up to 1 in this
    precision are divided by their sum: so does mergekit's linear merge (0.1.5), and results are the same to the last
    bit.
    """
    shares = torch.tensor([weight, 1 - weight], dtype=text.dtype)
    text.mul_(weight).add_(image, alpha=1 - weight)
    return text if shares.sum() == 1 else text.div_(shares.sum())
