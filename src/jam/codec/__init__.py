"""Between documents and ids: text tokenizer, image tokenizer and their interleaving.

Names are imported when they are used: an image tokenizer is described, found and copied without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jam.codec.codec import Codec
    from jam.codec.description import ImageTokenizerInfo, describe_image_tokenizer
    from jam.codec.encoded import Encoded
    from jam.codec.images import ImageTokenizer, load_image_tokenizer
    from jam.codec.text import load_tokenizer

_MODULES = {
    "Codec": "codec",
    "Encoded": "encoded",
    "ImageTokenizer": "images",
    "ImageTokenizerInfo": "description",
    "describe_image_tokenizer": "description",
    "load_image_tokenizer": "images",
    "load_tokenizer": "text",
}
__all__ = [
    "Codec",
    "Encoded",
    "ImageTokenizer",
    "ImageTokenizerInfo",
    "describe_image_tokenizer",
    "load_image_tokenizer",
    "load_tokenizer",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
