"""Training batches of pictures from folders and documents; a batch is a pure function of (seed, step)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PILImage

from jam.documents import READ_SUFFIXES, Image, is_data_uri, read_documents
from jam.tokenizer_training.config import PictureSource

SUFFIXES = frozenset(f".{suffix}" for suffix in READ_SUFFIXES)
TRIES = 20  # pictures to try until one can be read


@dataclass(frozen=True)
class Picture:
    """A picture's place, its key (its name, or a digest of its data), and its relative frequency."""

    image: Image
    key: str
    weight: float


def find_pictures(sources: Sequence[PictureSource], allowed_media_path: str | None = None) -> list[Picture]:
    """All pictures of the sources, each place once.

    Args:
        allowed_media_path: as in `read_documents`, for sources that are documents.

    Raises:
        ValueError: a source does not exist or has no pictures, or its weight is not positive.
    """
    found: dict[str, Picture] = {}
    for source in sources:
        if source.weight <= 0:
            raise ValueError(f"source {source.path}: weight is {source.weight}; it must be positive")
        count = 0
        for image in _images(Path(source.path), allowed_media_path):
            assert image.path is not None
            count += 1
            is_data = is_data_uri(image.path)
            key = hashlib.sha256(image.path.encode()).hexdigest() if is_data else Path(image.path).name
            found.setdefault(key if is_data else str(Path(image.path)), Picture(image, key, source.weight))
        if not count:
            raise ValueError(
                f"source {source.path}: there are no pictures in it; give a folder of pictures or documents"
            )
    return list(found.values())


def _images(path: Path, allowed_media_path: str | None) -> Iterable[Image]:
    if path.is_dir():
        names = sorted(name for name in path.rglob("*") if name.suffix.lower() in SUFFIXES and name.is_file())
        return (Image(path=str(name)) for name in names)
    if not path.is_file():
        raise ValueError(f"source {path}: no such folder or file")
    if path.suffix.lower() in SUFFIXES:
        return [Image(path=str(path))]
    documents = read_documents(path, allowed_media_path)
    return (image for document in documents for image in document.images if image.path is not None)


def leave_out(pictures: list[Picture], count: int, seed: int) -> tuple[list[Picture], list[Picture]]:
    """Pictures to learn, and `count` pictures to measure; a key is never in both lists.

    Raises:
        ValueError: no picture would be left to learn.
    """
    order = sorted(pictures, key=lambda picture: hashlib.sha256(f"{seed}:{picture.key}".encode()).digest())
    measured = order[:count]
    keys = {picture.key for picture in measured}
    learnt = [picture for picture in pictures if picture.key not in keys]
    if not learnt:
        raise ValueError(f"{len(pictures)} pictures, {count} held out: none is left to learn from; lower held_out")
    return learnt, measured


def digest_of(pictures: Sequence[Picture]) -> str:
    """Digest of all that decides a batch: keys, file sizes and weights of the pictures, in order."""
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(json.dumps([picture.key, _size_of(picture), float(picture.weight)]).encode())
    return digest.hexdigest()[:16]


def _size_of(picture: Picture) -> int | None:
    """Bytes of the file; None without a file: the picture is in a document (its key is a digest), or deleted."""
    try:
        return Path(str(picture.image.path)).stat().st_size
    except (OSError, ValueError):
        return None


class Pictures:
    """A reader that loads, crops and caches pictures, in threads and one batch ahead.

    Attributes:
        unreadable: reasons by the places of unreadable pictures.
    """

    def __init__(
        self,
        pictures: list[Picture],
        resolution: int,
        seed: int = 0,
        flip: bool = False,
        cache_bytes: int = 2**30,
        workers: int = 2,
        max_unreadable: float = 0.1,
    ) -> None:
        self.pictures, self.resolution, self.seed, self.flip = pictures, resolution, seed, flip
        self.max_unreadable = max_unreadable
        self.unreadable: dict[str, str] = {}
        weights = np.array([picture.weight for picture in pictures])
        self._ends = np.cumsum(weights / weights.sum())
        self._cache: dict[int, np.ndarray] = {}
        self._left = cache_bytes
        self._pool = ThreadPoolExecutor(workers)
        self._ahead: tuple[tuple[int, int], list[Future[np.ndarray]]] | None = None

    def __len__(self) -> int:
        return len(self.pictures)

    def batch(self, step: int, size: int) -> torch.Tensor:
        """Random squares of random pictures, -1 .. 1, ``[size, 3, R, R]``; a step always has the same squares.

        Raises:
            ValueError: too many pictures cannot be read.
        """
        if self._ahead is None or self._ahead[0] != (step, size):
            self._ahead = ((step, size), self._start(step, size))
        futures = self._ahead[1]
        self._ahead = ((step + 1, size), self._start(step + 1, size))
        pixels = to_pixels([future.result() for future in futures])
        self._check()
        return pixels

    def first(self, count: int | None = None) -> torch.Tensor:
        """The middle squares of the first `count` readable pictures (None: of all), ``[n, 3, R, R]``."""
        squares = []
        for square in self._pool.map(self._middle, range(len(self))):
            if square is not None:
                squares.append(square)
            if len(squares) == count:
                break
        if not squares:
            raise ValueError(f"none of {len(self)} pictures can be read; the first: {self._example()}")
        return to_pixels(squares)

    def _start(self, step: int, size: int) -> list[Future[np.ndarray]]:
        seeds = np.random.SeedSequence([self.seed, step]).spawn(size)
        return [self._pool.submit(self._drawn, seeds[slot]) for slot in range(size)]

    def _drawn(self, seed: np.random.SeedSequence) -> np.ndarray:
        rng = np.random.default_rng(seed)
        for _ in range(TRIES):
            index = min(int(np.searchsorted(self._ends, rng.random(), side="right")), len(self) - 1)
            place, mirrored = rng.random(), rng.random() < 0.5
            if (array := self._array(index)) is not None:
                square = cropped(array, place)
                return square[:, ::-1] if self.flip and mirrored else square
        raise ValueError(f"{TRIES} pictures in a row cannot be read; the first: {self._example()}")

    def _middle(self, index: int) -> np.ndarray | None:
        array = self._array(index)
        return None if array is None else cropped(array, 0.5)

    def _array(self, index: int) -> np.ndarray | None:
        """RGB uint8 whose shorter side is the resolution; None for an unreadable picture."""
        if index in self._cache:
            return self._cache[index]
        image = self.pictures[index].image
        try:
            array = resized(image.load(), self.resolution)
        except (ValueError, PILImage.DecompressionBombError) as error:
            self.unreadable[str(image.path)[:200]] = str(error)
            return None
        if array.nbytes <= self._left:
            self._left -= array.nbytes
            self._cache[index] = array
        return array

    def _check(self) -> None:
        if len(self.unreadable) > max(TRIES, self.max_unreadable * len(self)):
            raise ValueError(
                f"{len(self.unreadable)} of {len(self)} pictures cannot be read, more than max_unreadable "
                f"{self.max_unreadable:.0%}; the first: {self._example()}"
            )

    def _example(self) -> str:
        return next(iter(self.unreadable.values()))

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def resized(picture: PILImage.Image, side: int) -> np.ndarray:
    """RGB uint8 ``[h, w, 3]`` whose shorter side is `side`."""
    short = min(picture.size)
    if short != side:
        size = [max(side, round(length * side / short)) for length in picture.size]
        picture = picture.resize((size[0], size[1]), PILImage.Resampling.LANCZOS)
    return np.asarray(picture)


def cropped(array: np.ndarray, place: float) -> np.ndarray:
    """The square at `place` along the longer side: 0 at the beginning, 0.5 in the middle."""
    height, width = array.shape[:2]
    side = min(height, width)
    top, left = (int(place * (length - side) + 0.5) for length in (height, width))
    return array[top : top + side, left : left + side]


def to_pixels(squares: Sequence[np.ndarray]) -> torch.Tensor:
    """uint8 squares to ``[N, 3, R, R]`` in -1 .. 1."""
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).float() / 127.5 - 1
