"""A picture of a document: a file, a data URI, pixels, or the codes of an image tokenizer."""

from __future__ import annotations

import base64
import io
import warnings
from dataclasses import dataclass, field
from typing import Any

from PIL import Image as PILImage

DATA_URI = "data:image/"
# Of a picture that is read: one pixel shows nothing; a bomb, or a thread once its width is resized, fills the memory.
MIN_SIDE, MAX_PIXELS, MAX_ASPECT = 2, 2**26, 100
JPEG = b"\xff\xd8"  # how such a file begins


@dataclass
class Image:
    """A picture: pixels, or where they are (`path`: a file or a data URI), or image-tokenizer `codes`, row by row.

    `grid`: height and width of the codes; None: as of all pictures of the model. `data` is the content of a picture's
    file, where it lies in a table or an archive; `path` is its name there then.
    """

    path: str | None = None
    pixels: PILImage.Image | None = None
    codes: list[int] | None = None
    grid: tuple[int, int] | None = None
    where: str = ""  # file and line of the document, for messages
    data: bytes | None = field(default=None, repr=False)

    def load(self) -> PILImage.Image:
        """The picture as RGB pixels, on white where it is transparent.

        Raises:
            ValueError: the file is missing, truncated or no picture.
        """
        if self.pixels is not None:
            self._check_size(self.pixels)
            return to_rgb(self.pixels)
        if self.path is None and self.data is None:
            raise ValueError(f"{self.where}this picture has codes only; decode them with the model's image tokenizer")
        try:
            with (
                warnings.catch_warnings(action="ignore", category=PILImage.DecompressionBombWarning),
                PILImage.open(self._file()) as picture,
            ):
                self._check_size(picture)
                return to_rgb(picture)
        except FileNotFoundError:
            raise ValueError(f"{self.where}picture {self._name} does not exist") from None
        except PILImage.DecompressionBombError:
            raise ValueError(f"{self.where}picture {self._name} is too large; {_SIZES}") from None
        except PictureSizeError:
            raise
        except Exception as error:  # decoders of damaged files raise what they like
            raise ValueError(f"{self.where}picture {self._name} cannot be read ({error}); is it truncated?") from None

    @property
    def _name(self) -> str:
        if self.path is None:
            return "in memory"
        return self.path if not self.path.startswith(DATA_URI) else "in the data URI"

    def _check_size(self, picture: PILImage.Image) -> None:
        width, height = picture.size
        short, long = sorted(picture.size)
        if short < MIN_SIDE or short * long > MAX_PIXELS or long > MAX_ASPECT * short:
            raise PictureSizeError(f"{self.where}picture {self._name} has {width} x {height} pixels; {_SIZES}")

    def _file(self) -> Any:
        """What `PIL` opens."""
        if self.data is not None:
            return io.BytesIO(self.data)
        assert self.path is not None
        if self.path.startswith(DATA_URI):
            return io.BytesIO(base64.b64decode(self.path.partition(",")[2], validate=True))
        return self.path


def to_rgb(picture: PILImage.Image) -> PILImage.Image:
    """RGB pixels; what is transparent shows white."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    return PILImage.alpha_composite(PILImage.new("RGBA", layer.size, "white"), layer).convert("RGB")


class PictureSizeError(ValueError):
    """A picture is too small to show anything, or too large to be read."""


_SIZES = (
    f"a side must have {MIN_SIDE} or more, the longer one {MAX_ASPECT} times the shorter or less, and the picture "
    f"{MAX_PIXELS // 2**20} million or fewer"
)


def png_bytes(picture: PILImage.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def data_uri(picture: PILImage.Image) -> str:
    return f"{DATA_URI}png;base64,{base64.b64encode(png_bytes(picture)).decode()}"
