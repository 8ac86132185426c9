"""The twelve things of the built-in world, each of a few flat parts on a grid of 3 x 3 units."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import ImageDraw

BACKGROUND = (255, 255, 255)
COLOURS = {
    "red": (222, 30, 38),
    "orange": (255, 140, 0),
    "yellow": (255, 225, 40),
    "green": (40, 160, 65),
    "blue": (30, 90, 225),
    "purple": (140, 40, 180),
    "pink": (255, 150, 205),
    "brown": (120, 70, 25),
}
SIZES = {"small": 8, "big": 16}  # pixels a unit
PLACES = {"left": "on the left", "middle": "in the middle", "right": "on the right"}
RESOLUTION = 64
BASELINE = 56  # y of the lower edge of every thing


@dataclass(frozen=True)
class Shape:
    """A rectangle, ellipse or polygon; coordinates in units, y downwards."""

    kind: str
    coordinates: tuple[float, ...]

    def draw(self, canvas: ImageDraw.ImageDraw, colour: tuple[int, int, int], left: int, top: int, unit: int) -> None:
        xs = [left + round(x * unit) for x in self.coordinates[::2]]
        ys = [top + round(y * unit) for y in self.coordinates[1::2]]
        if self.kind == "polygon":
            # Pixel centres of the right and lower edge belong to the shape, as for boxes.
            xs = [x - (x == max(xs)) for x in xs]
            ys = [y - (y == max(ys)) for y in ys]
            canvas.polygon(list(zip(xs, ys, strict=True)), fill=colour)
            return
        box = (xs[0], ys[0], xs[1] - 1, ys[1] - 1)
        if self.kind == "rectangle":
            canvas.rectangle(box, fill=colour)
        else:
            canvas.ellipse(box, fill=colour)


def rectangle(*coordinates: float) -> Shape:
    return Shape("rectangle", coordinates)


def ellipse(*coordinates: float) -> Shape:
    return Shape("ellipse", coordinates)


def polygon(*coordinates: float) -> Shape:
    return Shape("polygon", coordinates)


@dataclass(frozen=True)
class Part:
    """A part of one colour; `plural` parts have no article ("red wheels")."""

    name: str
    shapes: tuple[Shape, ...]
    plural: bool = False


@dataclass(frozen=True)
class Thing:
    """A thing with its parts; `main` is the part that gives the thing its colour: a red house has a red body."""

    name: str
    main: str
    parts: tuple[Part, ...]

    def part(self, name: str) -> Part:
        return next(part for part in self.parts if part.name == name)


# Parts meet at whole units, so that a block of 8 x 8 pixels has one colour beside the background. The shape of every
# main part (but the mushroom's slanted corners) also occurs in another thing or another part, in all colours, so that
# the corpora have the blocks of held-out pairs. Main parts share two names, so that the corpora also have "a red body"
# (docs/demo-world.md).
THINGS = {
    thing.name: thing
    for thing in (
        Thing(
            "house",
            "body",
            (
                Part("body", (rectangle(0, 1, 3, 3),)),
                Part("roof", (polygon(0, 1, 1.5, 0, 3, 1),)),
                Part("door", (rectangle(1, 2, 2, 3),)),
            ),
        ),
        Thing(
            "tree",
            "top",
            (Part("trunk", (rectangle(1, 2, 2, 3),)), Part("top", (ellipse(0, 0, 3, 2),))),
        ),
        Thing(
            "boat",
            "body",
            (
                Part("body", (polygon(0, 2, 3, 2, 2, 3, 1, 3),)),
                Part("mast", (rectangle(0.5, 0, 1, 2),)),
                Part("sail", (polygon(1, 0, 3, 2, 1, 2),)),
            ),
        ),
        Thing(
            "car",
            "body",
            (
                Part("body", (rectangle(0, 1, 3, 2),)),
                Part("wheels", (ellipse(0, 2, 1, 3), ellipse(2, 2, 3, 3)), plural=True),
                Part("cabin", (rectangle(0.5, 0, 2.5, 1),)),
            ),
        ),
        Thing(
            "fish",
            "body",
            (
                Part("body", (ellipse(0, 0, 2, 2),)),
                Part("tail", (polygon(2, 1, 3, 0, 3, 2),)),
            ),
        ),
        Thing(
            "flower",
            "top",
            (
                Part("top", (ellipse(0, 0, 3, 2),)),
                Part("stem", (rectangle(1.5, 2, 2, 3),)),
                Part("leaf", (polygon(2, 2, 3, 3, 2, 3),)),
            ),
        ),
        Thing(
            "rocket",
            "body",
            (
                Part("body", (rectangle(1, 1, 2, 3),)),
                Part("nose", (ellipse(1, 0, 2, 1),)),
                Part("fins", (polygon(1, 2, 0, 3, 1, 3), polygon(2, 2, 3, 3, 2, 3)), plural=True),
                Part("window", (rectangle(1, 1, 2, 2),)),
            ),
        ),
        Thing(
            "snowman",
            "body",
            (
                Part("body", (ellipse(0, 1, 3, 3),)),
                Part("head", (ellipse(1, 0, 2, 1),)),
                Part("scarf", (rectangle(1, 1, 2, 2),)),
            ),
        ),
        Thing(
            "mushroom",
            "top",
            (Part("stem", (rectangle(1, 2, 2, 3),)), Part("top", (polygon(0, 2, 0, 1, 1, 0, 2, 0, 3, 1, 3, 2),))),
        ),
        Thing(
            "cake",
            "body",
            (
                Part("body", (rectangle(0, 2, 3, 3),)),
                Part("icing", (rectangle(0.5, 1, 2.5, 2),)),
                Part("candle", (rectangle(1, 0, 1.5, 1),)),
            ),
        ),
        Thing(
            "robot",
            "body",
            (
                Part("body", (rectangle(1, 1, 2, 2),)),
                Part("head", (rectangle(0.5, 0, 2.5, 1),)),
                Part("legs", (polygon(1, 2, 0, 3, 1, 3), polygon(2, 2, 3, 3, 2, 3)), plural=True),
            ),
        ),
        Thing(
            "balloon",
            "top",
            (Part("top", (ellipse(0, 0, 2, 2),)), Part("basket", (polygon(0, 2, 3, 2, 2, 3, 1, 3),))),
        ),
    )
}
PART_NAMES = {part.name for thing in THINGS.values() for part in thing.parts}

# One colour of every thing occurs in no corpus; these pairs are the test.
HELD_OUT = {(thing, list(COLOURS)[(3 * index + 1) % len(COLOURS)]) for index, thing in enumerate(THINGS)}
