"""A scene of the built-in world: a thing, its place, its size and the coloured parts drawn so far."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from PIL import Image, ImageDraw

from jam.tutorials.things import BACKGROUND, BASELINE, COLOURS, HELD_OUT, PLACES, RESOLUTION, SIZES, THINGS


@dataclass(frozen=True)
class Scene:
    """A thing with parts, which are (part name, colour) in the order of drawing."""

    thing: str
    size: str
    place: str
    parts: tuple[tuple[str, str], ...]

    @property
    def is_held_out(self) -> bool:
        return (self.thing, dict(self.parts).get(THINGS[self.thing].main)) in HELD_OUT

    @property
    def is_complete(self) -> bool:
        return sorted(name for name, _ in self.parts) == sorted(part.name for part in THINGS[self.thing].parts)

    def first(self, count: int) -> Scene:
        """The scene after `count` steps."""
        return replace(self, parts=self.parts[:count])

    def steps(self) -> Iterator[Scene]:
        return (self.first(count) for count in range(1, len(self.parts) + 1))

    @property
    def left(self) -> int:
        """x of the thing's left edge; the middle of a small thing is rounded to the grid of 8 pixels."""
        room = RESOLUTION - 3 * SIZES[self.size]
        return {"left": 0, "middle": -(-room // 16) * 8, "right": room}[self.place]

    def draw(self) -> Image.Image:
        """The picture, RGB, `RESOLUTION` x `RESOLUTION` pixels, flat colours without smoothing."""
        picture = Image.new("RGB", (RESOLUTION, RESOLUTION), BACKGROUND)
        canvas = ImageDraw.Draw(picture)
        unit = SIZES[self.size]
        for name, colour in self.parts:
            for shape in THINGS[self.thing].part(name).shapes:
                shape.draw(canvas, COLOURS[colour], self.left, BASELINE - 3 * unit, unit)
        return picture


def random_scene(rng: random.Random, held_out: bool = False) -> Scene:
    """A complete scene whose parts have distinct colours; `held_out`: True for a held-out pair, False for another."""
    while True:
        thing = THINGS[rng.choice(list(THINGS))]
        colours = rng.sample(list(COLOURS), len(thing.parts))
        parts = tuple((part.name, colour) for part, colour in zip(thing.parts, colours, strict=True))
        scene = Scene(thing.name, rng.choice(list(SIZES)), rng.choice(list(PLACES)), parts)
        if scene.is_held_out == held_out:
            return scene
