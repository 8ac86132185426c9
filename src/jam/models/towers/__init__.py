"""Parents as towers: decoders of `transformers`, taken apart into embed, layers, norm and head."""

from __future__ import annotations

from jam.models.towers.base import Family, Rotary
from jam.models.towers.llama import LlamaFamily
from jam.models.towers.opt import OPTFamily
from jam.models.towers.tower import FAMILIES, JointTower, Tower, family_of

__all__ = ["FAMILIES", "Family", "JointTower", "LlamaFamily", "OPTFamily", "Rotary", "Tower", "family_of"]
