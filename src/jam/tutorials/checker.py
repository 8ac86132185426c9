"""The exact checker: does a picture show what the texts so far say, and do the texts lead to what was asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from jam.documents import Image as ImagePart
from jam.documents import Part, Text
from jam.tutorials.scenes import Scene
from jam.tutorials.texts import Request, read_steps
from jam.tutorials.things import BACKGROUND, COLOURS, THINGS

_PALETTE = np.array([BACKGROUND, *COLOURS.values()], dtype=np.int32)
MAX_WRONG_OF_PART = 0.4
MAX_WRONG_OF_PICTURE = 0.015
CLUSTER = 4  # pixels; a square of this side that is wholly wrong is something that should not be there


def colour_labels(picture: Image.Image) -> np.ndarray:
    """The nearest palette colour of every pixel (0: background), int ``[height, width]``."""
    pixels = np.asarray(picture.convert("RGB"), dtype=np.int32)
    return ((pixels[:, :, None, :] - _PALETTE) ** 2).sum(-1).argmin(-1)


def _windows(array: np.ndarray, side: int) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(array, (side, side))


def _neighbours(scene: Scene) -> Iterator[Scene]:
    """The scene with one part left out, and with one more part, in a colour that none of its parts has."""
    for index in range(len(scene.parts)):
        yield replace(scene, parts=scene.parts[:index] + scene.parts[index + 1 :])
    drawn = dict(scene.parts)
    spare = next(colour for colour in COLOURS if colour not in drawn.values())
    for part in THINGS[scene.thing].parts:
        if part.name not in drawn:
            yield replace(scene, parts=(*scene.parts, (part.name, spare)))


def picture_shows(picture: Image.Image, scene: Scene) -> bool:
    """Whether every part of the scene is there in its colour and place, and nothing else.

    Pixels are compared by nearest palette colour. Of the pixels that one part alone decides (those that change if it is
    left out or, for a part not drawn yet, if it is added) at most 40 % may differ. Away from edges, where an image
    tokenizer blurs, at most 1.5 % of the picture may differ, and nowhere a whole square of 4 x 4 pixels.
    """
    if picture.size != (expected := scene.draw()).size:
        return False
    wanted, found = colour_labels(expected), colour_labels(picture)
    wrong = wanted != found
    for neighbour in _neighbours(scene):
        decided = wanted != colour_labels(neighbour.draw())
        if decided.any() and wrong[decided].mean() > MAX_WRONG_OF_PART:
            return False
    inside = (_windows(np.pad(wanted, 1, mode="edge"), 3) == wanted[:, :, None, None]).all((2, 3))
    wrong &= inside
    return bool(wrong.mean() <= MAX_WRONG_OF_PICTURE and not _windows(wrong, CLUSTER).all((2, 3)).any())


@dataclass(frozen=True)
class Verdict:
    """What the checker says of one answer.

    `pictures` judges each picture by the texts before it; pictures that a thing's steps ask for and that are not there
    count as wrong.
    """

    well_formed: bool  # ends by itself; text and picture alternate; as many steps as the thing has parts
    texts_right: bool  # the texts lead to what was asked
    pictures: tuple[bool, ...]

    @property
    def right(self) -> bool:
        return self.well_formed and self.texts_right and all(self.pictures)


def check_answer(parts: list[Part], request: Request, ended: bool) -> Verdict:
    """Judge the parts of an answer; `ended`: whether the model closed the document itself."""
    alternate = len(parts) % 2 == 0 and all(
        isinstance(part, Text if index % 2 == 0 else ImagePart) for index, part in enumerate(parts)
    )
    steps = len(THINGS[request.thing].parts)
    texts: list[str] = []
    verdicts: list[bool] = []
    for part in parts:
        if isinstance(part, Text):
            texts.append(part.text)
        elif isinstance(part, ImagePart):
            scene = read_steps(texts)
            verdicts.append(scene is not None and picture_shows(part.load(), scene))
    scene = read_steps(texts)
    well_formed = ended and alternate and len(verdicts) == steps
    verdicts += [False] * (steps - len(verdicts))
    return Verdict(
        well_formed=well_formed,
        texts_right=scene is not None and request.is_met_by(scene),
        pictures=tuple(verdicts),
    )
