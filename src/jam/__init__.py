"""jam: fuse a language model and an image-token model into one that writes illustrated documents.

>>> model = jam.load("fused")
>>> document = model.generate("How do I draw a red house?")
>>> document.save("page.html")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jam.documents import Document, Gap, Image, Message, Text
from jam.waiting import wait_briefly

if TYPE_CHECKING:
    from jam.model import Model, load

__all__ = ["Document", "Gap", "Image", "Message", "Model", "Text", "load"]

wait_briefly()  # here, since nothing of jam is imported before


def __getattr__(name: str) -> Any:
    """`Model` and `load`, imported when they are used: a command that loads no model does not wait for them."""
    if name not in ("Model", "load"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from jam import model

    return getattr(model, name)
