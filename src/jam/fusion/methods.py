"""All fusion methods by name. A new method is a subclass of `FusionMethod`, and an entry here."""

from __future__ import annotations

from jam.fusion.cross import Cross
from jam.fusion.method import FusionMethod
from jam.fusion.uniform import Uniform
from jam.fusion.width import Width

METHODS: dict[str, FusionMethod] = {method.name: method for method in (Cross(), Uniform(), Width())}


def find_method(name: str) -> FusionMethod:
    """The method `name`. Raises ValueError, with all names, if there is none."""
    if name not in METHODS:
        raise ValueError(f"--method is {name!r:.80}; it must be one of {', '.join(METHODS)}")
    return METHODS[name]
