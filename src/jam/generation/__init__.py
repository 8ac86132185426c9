"""Decoding: settings, sampling, guidance and the engine."""

from jam.generation.engine import Engine
from jam.generation.row import FinishReason, Generation
from jam.generation.settings import GenerationSettings

__all__ = ["Engine", "FinishReason", "Generation", "GenerationSettings"]
