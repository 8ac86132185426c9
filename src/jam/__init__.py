"""jam: fuse a language model and an image-token model into one that writes illustrated documents.

>>> model = jam.load("fused")
>>> document = model.generate("How do I draw a red house?")
>>> document.save("page.html")
"""

from jam.documents import Document, Image, Message, Text
from jam.model import Model, load

__all__ = ["Document", "Image", "Message", "Model", "Text", "load"]
