"""Shapes of pictures whose documents say their size: the shape of the original, within limits of the area."""

from __future__ import annotations

import math


def fitted(size: tuple[int, int], factor: int, area: tuple[int, int]) -> tuple[int, int]:
    """(height, width) in pixels near `size` (height, width), by the rule of Emu3's image processor.

    Sides are multiples of `factor`; a picture with more pixels than `area` allows is made smaller, one with fewer
    larger, with the ratio of its sides as far as the factor lets it.

    Raises:
        ValueError: a side is more than 200 times the other one.
    """
    if max(size) > 200 * min(size):
        raise ValueError(f"a picture of {size[1]} x {size[0]} pixels is too long and thin to be encoded; crop it")
    least, most = area
    sides = [round(side / factor) * factor for side in size]
    if sides[0] * sides[1] > most:
        shrink = math.sqrt(size[0] * size[1] / most)
        sides = [max(factor, math.floor(side / shrink / factor) * factor) for side in size]
    elif sides[0] * sides[1] < least:
        grow = math.sqrt(least / (size[0] * size[1]))
        sides = [math.ceil(side * grow / factor) * factor for side in size]
    return sides[0], sides[1]
