"""How many rows of a tensor are read, computed and written at once."""

from __future__ import annotations

import math

BLOCK = 2**18  # numbers: smaller blocks fit better into a core's cache, but take Python's lock more often


def block_rows(row_shape: tuple[int, ...]) -> int:
    """Number of rows of this shape in a block, at least 1."""
    return max(1, BLOCK // max(1, math.prod(row_shape)))
