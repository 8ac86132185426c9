"""What happens while documents are written, as a stream.

Every event has the `id` of the request that it is about (`Engine.submit` returned it). Texts that arrive as pieces,
put together, are the text of the finished document; what a budget or a stop string will cut is held back while it is
uncertain. (The exception is the text of a gap that a limit closed: the filled document has it up to its last word.)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from PIL.Image import Image

if TYPE_CHECKING:
    from jam.codec import Codec
    from jam.documents import Document
    from jam.generation.result import Generation


@dataclass(frozen=True)
class TextPiece:
    """More text; never half a character."""

    id: int
    text: str


@dataclass(frozen=True)
class ImageStarted:
    """A picture begins. `index` counts the new pictures of the document, from 0."""

    id: int
    index: int


@dataclass(frozen=True)
class ImageProgress:
    """One more row of codes is there: `done` of `total` codes."""

    id: int
    index: int
    codes: list[int] = field(repr=False)
    total: int
    grid: tuple[int, int] | None
    codec: Codec | None = field(repr=False)

    @property
    def done(self) -> int:
        return len(self.codes)

    def picture(self) -> Image:
        """The finished rows as pixels, decoded when asked for. Raises ValueError without an image tokenizer."""
        return _picture(self.codec, self.codes, self.grid)


@dataclass(frozen=True)
class ImageDone:
    """A picture is whole."""

    id: int
    index: int
    codes: list[int] = field(repr=False)
    grid: tuple[int, int] | None
    codec: Codec | None = field(repr=False)

    def picture(self) -> Image:
        """The picture as pixels, decoded when asked for. Raises ValueError without an image tokenizer."""
        return _picture(self.codec, self.codes, self.grid)


@dataclass(frozen=True)
class Finished:
    """The document is done.

    Args:
        generation: the result, with reason and counts.
        document: the prompt with what was written; from `Model.stream` and `Chat.stream`, not from the engine. These
            raise where the engine says that a row has "failed".
    """

    id: int
    generation: Generation
    document: Document | None = None

    @property
    def reason(self) -> str:
        return self.generation.finish_reason

    @property
    def is_cut(self) -> bool:
        """Whether the last text ends within a sentence, which a limit ended."""
        return self.generation.is_cut

    @property
    def tokens(self) -> int:
        return len(self.generation.new_ids)

    @property
    def images(self) -> int:
        return self.generation.images


Event = TextPiece | ImageStarted | ImageProgress | ImageDone | Finished


def _picture(codec: Codec | None, codes: list[int], grid: tuple[int, int] | None) -> Image:
    if codec is None or codec.image_tokenizer is None:
        raise ValueError("there is no image tokenizer to decode this picture with")
    return codec.image_tokenizer.preview(codes, grid)
