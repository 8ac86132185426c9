"""Decoding: requests, settings, sampling, guidance, the engine, its events, conversations and gaps."""

from jam.generation.engine import Engine
from jam.generation.events import Event, Finished, ImageDone, ImageProgress, ImageStarted, TextPiece
from jam.generation.request import Request, Session
from jam.generation.row import FinishReason, Generation, Row
from jam.generation.settings import GenerationSettings

__all__ = [
    "Engine",
    "Event",
    "FinishReason",
    "Finished",
    "Generation",
    "GenerationSettings",
    "ImageDone",
    "ImageProgress",
    "ImageStarted",
    "Request",
    "Row",
    "Session",
    "TextPiece",
]
