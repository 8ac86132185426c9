"""What a person may choose about decoding."""

from __future__ import annotations

import difflib
import hashlib
import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

Schedule = Literal["constant", "linear", "cosine"]
MOST = 1e9  # of any number that scales logits: float32 holds what comes out


@dataclass(frozen=True)
class GenerationSettings:
    """How one document is decoded (docs/method.md, section 7).

    Args:
        max_new_tokens: most tokens to write (None: what the context holds); a picture that would not fit as a whole is
            not begun.
        min_images: at least so many pictures: the document does not end before them, and as many tokens of the budget
            as they need are kept for them.
        max_images: most pictures to begin (None: no limit).
        temperature: divides the logits; 0 takes the most probable token.
        top_p: sample from the smallest set of tokens that has at least this probability; 1 samples from all.
        top_k: sample from this many most probable tokens, before `top_p`; 0 is all.
        min_p: sample from tokens that are at least this probable, relative to the most probable one; text only.
        repetition_penalty: text ids that are in the document already have positive logits divided by it and negative
            ones multiplied; 1 is none; text only.
        image_temperature: temperature of image tokens (None: as text).
        image_top_p: top-p of image tokens (None: as text).
        image_top_k: top-k of image tokens (None: as text).
        guidance_scale: alpha of classifier-free guidance on image tokens; 1 is no guidance and costs nothing.
        guidance_end: alpha at a picture's last token (None: as at its first).
        guidance_schedule: the way from `guidance_scale` to `guidance_end`; "constant" has none.
        stop: strings that end the document; it is cut before the first one. They mean nothing while pictures of
            `min_images` are missing.
        image_grid: tokens of a picture as (height, width), where the model's documents say a picture's size (None: its
            usual size).
        seed: the same seed gives the same document, whatever else is in the batch.
    """

    max_new_tokens: int | None = None
    min_images: int = 0
    max_images: int | None = None
    temperature: float = 1.0
    top_p: float = 0.9
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    image_temperature: float | None = None
    image_top_p: float | None = None
    image_top_k: int | None = None
    guidance_scale: float = 1.0
    guidance_end: float | None = None
    guidance_schedule: Schedule = "constant"
    stop: tuple[str, ...] = ()
    image_grid: tuple[int, int] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self._check("max_new_tokens", int, lambda value: value >= 1, "at least 1, or None for what the context holds")
        self._check("min_images", int, lambda value: value >= 0, "0 or more")
        self._check("max_images", int, lambda value: value >= 0, "0 or more, or None for no limit")
        if self.image_grid is not None:
            sides = self.image_grid if isinstance(self.image_grid, list | tuple) else ()
            if len(sides) != 2 or any(type(side) is not int or side < 1 for side in sides):
                raise ValueError(f"image_grid is {self.image_grid!r}; it must be a height and a width in tokens")
            object.__setattr__(self, "image_grid", tuple(sides))
        for name in ("temperature", "image_temperature"):
            self._check(name, float, lambda value: 0 <= value <= MOST, f"0 (most probable token) to {MOST:g}")
        for name in ("top_p", "image_top_p"):
            self._check(name, float, lambda value: 0 < value <= 1, "above 0 and at most 1 (1 samples from all tokens)")
        for name in ("top_k", "image_top_k"):
            self._check(name, int, lambda value: 0 <= value <= MOST, f"0 (all tokens) to {MOST:g}")
        self._check("min_p", float, lambda value: 0 <= value <= 1, "from 0 (all tokens) to 1")
        bounds = f"from {1 / MOST:g} to {MOST:g} (1 is no penalty)"
        self._check("repetition_penalty", float, lambda value: 1 / MOST <= value <= MOST, bounds)
        for name in ("guidance_scale", "guidance_end"):
            self._check(name, float, lambda value: 0 <= value <= MOST, f"from 0 to {MOST:g} (1 is no guidance)")
        self._check(
            "seed", int, lambda value: 0 <= value < 2**32, "from 0 to 2^32 - 1"
        )  # what torch's CPU generator uses
        if self.max_images is not None and self.min_images > self.max_images:
            raise ValueError(
                f"min_images is {self.min_images} and max_images {self.max_images}; at least, then at most"
            )
        if self.guidance_schedule not in get_args(Schedule):
            choices = ", ".join(get_args(Schedule))
            raise ValueError(f"guidance_schedule is {self.guidance_schedule!r}; choose one of {choices}")
        if (self.guidance_schedule == "constant") != (self.guidance_end is None):
            raise ValueError(
                f"guidance_schedule is {self.guidance_schedule!r} and guidance_end {self.guidance_end}; a linear or "
                "cosine schedule needs guidance_end, and a constant one has none"
            )
        if not isinstance(self.stop, list | tuple) or not all(isinstance(text, str) and text for text in self.stop):
            raise ValueError(f"stop is {self.stop!r}; it must be a list of strings that are not empty")
        object.__setattr__(self, "stop", tuple(self.stop))

    def changed(self, **chosen: Any) -> GenerationSettings:
        """These settings with other values of some. Raises ValueError, for a name that there is none of, too."""
        names = [field.name for field in fields(self)]
        if unknown := [name for name in chosen if name not in names]:
            near = difflib.get_close_matches(unknown[0], names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}"
            raise ValueError(f"there is no setting {unknown[0]}; {hint}")
        return replace(self, **chosen)

    def _check(self, name: str, of: type, fits: Any, must_be: str) -> None:
        value = getattr(self, name)
        if value is None and type(self).__dataclass_fields__[name].default is None:
            return
        numbers = (int, float) if of is float else (int,)
        if isinstance(value, bool) or not isinstance(value, numbers):
            wanted = "a number" if of is float else "a whole number"
            kind = "" if value is None else f", of type {type(value).__name__}"
            raise ValueError(f"{name} is {value!r:.80}{kind}; it must be {wanted}: {must_be}")
        if not fits(value):
            raise ValueError(f"{name} is {value}; it must be {must_be}")

    @property
    def is_guided(self) -> bool:
        return self.guidance_scale != 1.0 or self.guidance_end not in (None, 1.0)

    def guidance_at(self, progress: float) -> float:
        """Alpha at a place within a picture, from 0 (its first token) to 1 (its last)."""
        if self.guidance_end is None:
            return self.guidance_scale
        way = progress if self.guidance_schedule == "linear" else (1 - math.cos(math.pi * progress)) / 2
        return self.guidance_scale + way * (self.guidance_end - self.guidance_scale)

    def temperature_of(self, image: bool) -> float:
        return self.image_temperature if image and self.image_temperature is not None else self.temperature

    def top_p_of(self, image: bool) -> float:
        return self.image_top_p if image and self.image_top_p is not None else self.top_p

    def top_k_of(self, image: bool) -> int:
        return self.image_top_k if image and self.image_top_k is not None else self.top_k

    def min_p_of(self, image: bool) -> float:
        return 0.0 if image else self.min_p

    def for_row(self, row: int) -> GenerationSettings:
        """These settings with the seed of the row-th prompt of a list; row 0 keeps the seed.

        Rows draw apart (the same prompt twice gives two documents), and any of them can be repeated alone.
        """
        if row == 0:
            return self
        digest = hashlib.sha256(f"{self.seed}:{row}".encode()).digest()
        return replace(self, seed=int.from_bytes(digest[:4]))
