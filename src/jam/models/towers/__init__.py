"""Parents as towers: decoders of `transformers`, taken apart into embed, layers, norm and head."""

from __future__ import annotations

from jam.models.towers.base import Context, Family, Rotary
from jam.models.towers.composite import Composite, Made
from jam.models.towers.registry import COMPOSITES, FAMILIES, composite_of, decoder_config, family_of
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
