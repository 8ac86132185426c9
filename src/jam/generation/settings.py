"""What a person may choose about decoding."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class GenerationSettings:
    """How one document is decoded (docs/method.md, section 7).

    Args:
        max_new_tokens: most tokens to write (None: what the context holds); a picture that would not fit as a whole is
            not begun.
        max_images: most pictures to begin (None: no limit).
        temperature: divides the logits; 0 takes the most probable token.
        top_p: sample from the smallest set of tokens that has at least this probability; 1 samples from all.
        image_temperature: temperature of image tokens (None: as text).
        image_top_p: top-p of image tokens (None: as text).
        guidance_scale: alpha of classifier-free guidance on image tokens; 1 is no guidance and costs nothing.
        image_grid: tokens of a picture as (height, width), where the model's documents say a picture's size (None: its
            usual size).
        seed: the same seed gives the same document, whatever else is in the batch.
    """

    max_new_tokens: int | None = None
    max_images: int | None = None
    temperature: float = 1.0
    top_p: float = 0.9
    image_temperature: float | None = None
    image_top_p: float | None = None
    guidance_scale: float = 1.0
    image_grid: tuple[int, int] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1")
        if self.max_images is not None and self.max_images < 0:
            raise ValueError(f"max_images is {self.max_images}; it must be 0 or more, or None for no limit")
        if self.image_grid is not None:
            object.__setattr__(self, "image_grid", tuple(self.image_grid))
            if len(self.image_grid) != 2 or min(self.image_grid) < 1:
                raise ValueError(f"image_grid is {list(self.image_grid)}; it must be a height and a width in tokens")
        for name in ("temperature", "image_temperature"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}; it must be 0 (most probable token) or more")
        for name in ("top_p", "image_top_p"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"{name} is {value}; it must be above 0 and at most 1 (1 samples from all tokens)")
        if not (math.isfinite(self.guidance_scale) and self.guidance_scale >= 0):
            raise ValueError(f"guidance_scale is {self.guidance_scale}; it must be 0 or more (1 is no guidance)")

    @property
    def is_guided(self) -> bool:
        return self.guidance_scale != 1.0

    def temperature_of(self, image: bool) -> float:
        return self.image_temperature if image and self.image_temperature is not None else self.temperature

    def top_p_of(self, image: bool) -> float:
        return self.image_top_p if image and self.image_top_p is not None else self.top_p

    def for_row(self, row: int) -> GenerationSettings:
        """These settings with the seed of the row-th prompt of a list; row 0 keeps the seed.

        Rows draw apart (the same prompt twice gives two documents), and any of them can be repeated alone.
        """
        if row == 0:
            return self
        digest = hashlib.sha256(f"{self.seed}:{row}".encode()).digest()
        return replace(self, seed=int.from_bytes(digest[:4]))  # torch's CPU generator uses 32 bits of a seed
