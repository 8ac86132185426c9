"""What is broken: each target makes undamaged files once, and a damaged copy with a call for every case."""

from __future__ import annotations

import random
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """`what` is done to which files, the `call` that meets them, and what an error has to name (one of `names`)."""

    what: str
    call: Callable[[], object]
    names: tuple[str, ...] = ()


class Target(ABC):
    """A kind of cases. `home`: a folder for what is made once."""

    name: str

    def __init__(self, home: Path) -> None:
        self.home = home / self.name

    @cached_property
    def base(self) -> Path:
        """The folder of undamaged files."""
        self.home.mkdir(parents=True)
        self.make(self.home)
        return self.home

    @abstractmethod
    def make(self, folder: Path) -> None:
        """Write the undamaged files."""

    @abstractmethod
    def case(self, rng: random.Random, place: Path) -> Case:
        """A case, whose files lie below the new folder `place`."""

    def copy(self, place: Path, name: str = "") -> Path:
        """A copy of the undamaged files, or of one folder of them."""
        shutil.copytree(self.base / name, place / name, dirs_exist_ok=True)
        return place / name
