"""The exact checker: it compares pictures with the texts before them, and texts with the question."""

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
CLUSTER = 4  # pixels; a wholly wrong square of this side is an object that should not be there


def colour_labels(picture: Image.Image) -> np.ndarray:
    """The nearest palette colour of every pixel (0: background), int ``[height, width]``."""
    pixels = np.asarray(picture.convert("RGB"), dtype=np.int32)
    return ((pixels[:, :, None, :] - _PALETTE) ** 2).sum(-1).argmin(-1)


def _windows(array: np.ndarray, side: int) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(array, (side, side))


def _neighbours(scene: Scene) -> Iterator[Scene]:
    """Scenes with one part less, and scenes with one part more, in a colour that no part has."""
    for index in range(len(scene.parts)):
        yield replace(scene, parts=scene.parts[:index] + scene.parts[index + 1 :])
    drawn = dict(scene.parts)
    spare = next(colour for colour in COLOURS if colour not in drawn.values())
    for part in THINGS[scene.thing].parts:
        if part.name not in drawn:
            yield replace(scene, parts=(*scene.parts, (part.name, spare)))


def picture_shows(picture: Image.Image, scene: Scene) -> bool:
    """True if the picture shows every part of the scene in its colour and place, and nothing else.

    Pixels are compared by nearest palette colour. At most 40 % of the pixels of a part may differ: the pixels that
    change without the part or, for a part that is not drawn yet, with the part. Away from edges, which an image
    tokenizer blurs, at most 1.5 % of the picture may differ, and no whole square of 4 x 4 pixels.
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
    """The checker's verdict on an answer.

    `pictures` judges each picture by the texts before it; missing pictures of a thing's steps count as wrong.
    """

    well_formed: bool  # the model ended it; texts and pictures alternate; as many steps as the thing has parts
    texts_right: bool  # the texts answer the question
    pictures: tuple[bool, ...]

    @property
    def right(self) -> bool:
        return self.well_formed and self.texts_right and all(self.pictures)


def check_answer(parts: list[Part], request: Request, ended: bool) -> Verdict:
    """The verdict on the parts of an answer; `ended`: True if the model ended the document."""
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
