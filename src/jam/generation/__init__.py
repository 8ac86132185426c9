"""Decoding: requests, settings, sampling, guidance, the engine and its loop, events, conversations and gaps."""

from jam.generation.active_request import ActiveRequest
from jam.generation.chat import Chat
from jam.generation.documents import document_of, request_for
from jam.generation.engine import Engine
from jam.generation.events import Event, Finished, ImageDone, ImageProgress, ImageStarted, TextPiece
from jam.generation.fill import filled, request_to_fill, settings_to_fill
from jam.generation.loop import EngineLoop, Stream
from jam.generation.request import Request, Session
from jam.generation.result import FinishReason, Generation
from jam.generation.settings import GenerationSettings

__all__ = [
    "ActiveRequest",
    "Chat",
    "Engine",
    "EngineLoop",
    "Event",
    "FinishReason",
    "Finished",
    "Generation",
    "GenerationSettings",
    "ImageDone",
    "ImageProgress",
    "ImageStarted",
    "Request",
    "Session",
    "Stream",
    "TextPiece",
    "document_of",
    "filled",
    "request_for",
    "request_to_fill",
    "settings_to_fill",
]
