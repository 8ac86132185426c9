"""Parents as towers: decoders of `transformers`, divided into embedding, layers, norm and head.

Tower classes are imported on use: descriptions of families need neither torch nor `transformers`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jam.models.towers.base import Context, Family, Rotary
from jam.models.towers.composite import Composite, Made
from jam.models.towers.registry import COMPOSITES, FAMILIES, composite_of, decoder_config, family_of

if TYPE_CHECKING:
    from jam.models.towers.tower import JointTower, Tower

__all__ = [
    "COMPOSITES",
    "FAMILIES",
    "Composite",
    "Context",
    "Family",
    "JointTower",
    "Made",
    "Rotary",
    "Tower",
    "composite_of",
    "decoder_config",
    "family_of",
]


def __getattr__(name: str) -> Any:
    if name not in ("JointTower", "Tower"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from jam.models.towers import tower

    return getattr(tower, name)
