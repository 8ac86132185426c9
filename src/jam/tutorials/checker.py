"""The exact checker: does a picture show what the texts so far say, and do the texts lead to what was asked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from jam.documents import Image as ImagePart
from jam.documents import Part, Text
from jam.tutorials.scenes import Scene
from jam.tutorials.texts import Request, read_steps
from jam.tutorials.things import BACKGROUND, COLOURS, THINGS

_PALETTE = np.array([BACKGROUND, *COLOURS.values()], dtype=np.int32)
MAX_WRONG_OF_REGION = 0.25
MAX_WRONG_OF_PICTURE = 0.015
CLUSTER = 4  # pixels; a square of this side that is wholly wrong is a part too many


def colour_labels(picture: Image.Image) -> np.ndarray:
    """The nearest palette colour of every pixel (0: background), int ``[height, width]``."""
    pixels = np.asarray(picture.convert("RGB"), dtype=np.int32)
    return ((pixels[:, :, None, :] - _PALETTE) ** 2).sum(-1).argmin(-1)


def _windows(array: np.ndarray, side: int) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(array, (side, side))


def picture_shows(picture: Image.Image, scene: Scene) -> bool:
    """Whether every part of the scene is there in its colour and place, and nothing else.

    Pixels are compared by nearest palette colour, away from edges (where an image tokenizer blurs): in every visible
    part at most a quarter may differ, in the picture at most 1.5 %, and nowhere a whole square of 4 x 4 pixels.
    """
    if picture.size != (expected := scene.draw()).size:
        return False
    wanted, found = colour_labels(expected), colour_labels(picture)
    neighbourhood = _windows(np.pad(wanted, 1, mode="edge"), 3)
    inside = (neighbourhood == wanted[:, :, None, None]).all((2, 3))
    wrong = inside & (wanted != found)
    if wrong.mean() > MAX_WRONG_OF_PICTURE or _windows(wrong, CLUSTER).all((2, 3)).any():
        return False
    regions = [inside & (wanted == label) for label in np.unique(wanted)]
    return all(wrong[region].mean() <= MAX_WRONG_OF_REGION for region in regions if region.any())


@dataclass(frozen=True)
class Verdict:
    """What the checker says of one answer. `pictures` judges each picture by the texts before it."""

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
        else:
            scene = read_steps(texts)
            verdicts.append(scene is not None and picture_shows(part.load(), scene))
    scene = read_steps(texts)
    return Verdict(
        well_formed=ended and alternate and len(verdicts) == steps,
        texts_right=scene is not None and request.is_met_by(scene),
        pictures=tuple(verdicts),
    )
