"""What is known of an image tokenizer before its weights are read."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


def patch_size(in_channels: int) -> int:
    """Side of the pixel blocks that a model with more than 3 input channels reads as one position."""
    side = math.isqrt(in_channels // 3)
    if 3 * side * side != in_channels:
        raise ValueError(f"in_channels is {in_channels}; RGB blocks of side s have 3 s * s channels")
    return side


@dataclass(frozen=True)
class ImageTokenizerInfo:
    """What a folder's ``config.json`` says of its image tokenizer.

    Args:
        kind: class of the tokenizer, a key of `coders.CODERS`.
        codebook_size: number of codes.
        grid: codes of a picture, (height, width).
        resolution: pixels of a picture's side.
        area: fewest and most pixels of a picture that keeps its shape; None: the tokenizer has one shape. It is no part
            of `hash`: codes of one shape do not depend on it.
    """

    kind: str
    codebook_size: int
    grid: tuple[int, int]
    resolution: int
    area: tuple[int, int] | None = field(default=None, repr=False)

    @property
    def pixels_per_code(self) -> int:
        """Pixels of a code's side."""
        return self.resolution // self.grid[0]
