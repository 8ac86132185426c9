"""How many rows of a tensor are read, computed and written at once."""

from __future__ import annotations

import math

BLOCK = 2**18  # numbers: smaller ones cost more of Python's lock than they gain by staying in a core's cache


def block_rows(row_shape: tuple[int, ...]) -> int:
    """Rows of this shape that make a block: one at least."""
    return max(1, BLOCK // max(1, math.prod(row_shape)))
