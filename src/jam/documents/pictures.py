"""A picture of a document: a file, a data URI, pixels, or the codes of an image tokenizer."""

from __future__ import annotations

import base64
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes

from PIL import Image as PILImage

from jam.documents.pixels import PictureSizeError, check_size, png_bytes, read_file, read_pixels, to_rgb

DATA_URI = "data:image/"
JPEG = b"\xff\xd8"  # how such a file begins
SHOWN = 120  # characters of a name in a message
# How the files of pictures begin in base64, behind which nothing but its letters comes.
BASE64 = re.compile(r"(?:/9j/|iVBORw0KGgo|R0lGOD|UklGR)[A-Za-z0-9+/_=\s-]{40,}")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # what ends a line among them
WEB = re.compile(r"(?:https?|ftp|s3|gs|hf)://", re.IGNORECASE)


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

    def __post_init__(self) -> None:
        if isinstance(self.path, os.PathLike):
            self.path = os.fspath(self.path)
        kinds = (("path", str, "a string or a Path"), ("pixels", PILImage.Image, "a picture of Pillow"))
        for name, kind, what in (*kinds, ("codes", list | tuple, "a list of whole numbers"), ("data", bytes, "bytes")):
            if (value := getattr(self, name)) is not None and not isinstance(value, kind):
                raise ValueError(f"{self.where}{name} of a picture is {value!r:.80}; it must be {what}")
        if wrong := [code for code in self.codes or () if not isinstance(code, int)]:
            raise ValueError(f"{self.where}codes of a picture have {wrong[0]!r:.80}; they must be whole numbers")

    @classmethod
    def at(cls, address: str, folder: Path, where: str = "") -> Image:
        """The picture of a data URI, of a file's content in base64, or of a file (its name relative to `folder`)."""
        if is_data_uri(address):
            return cls(path=address, where=where)
        if BASE64.fullmatch(address):
            return cls(path=f"data:;base64,{address}", where=where)
        if WEB.match(address):
            return cls(path=address, where=where)
        name = unquote(address.removeprefix("file://")) if address.startswith("file://") else address
        return cls(path=str(folder / name), where=where)

    @property
    def file(self) -> str | None:
        """The file that the pixels are read from; None where they are here already, or on the web."""
        if self.pixels is not None or self.data is not None or self.path is None:
            return None
        return None if is_data_uri(self.path) or WEB.match(self.path) else self.path

    def load(self) -> PILImage.Image:
        """The picture as RGB pixels, upright, on white where it is transparent.

        Raises:
            ValueError: the file is missing, truncated, no picture, or on the web.
        """
        if self.pixels is None and self.data is None:
            if self.path is None:
                raise ValueError(
                    f"{self.where}this picture has codes only; decode them with the model's image tokenizer"
                )
            if WEB.match(self.path):
                raise ValueError(f"{self.where}picture {self._name} is on the web; fetch it, and name its file")
        try:
            if self.pixels is not None:
                check_size(self.pixels)
                return to_rgb(self.pixels)
            return read_pixels(self._content())
        except FileNotFoundError:
            raise ValueError(f"{self.where}picture {self._name} does not exist") from None
        except PictureSizeError as error:
            raise PictureSizeError(f"{self.where}picture {self._name} {error}") from None
        except Exception as error:  # decoders of damaged files raise what they like
            reason = shortened(str(error) or type(error).__name__, 300)
            raise ValueError(f"{self.where}picture {self._name} cannot be read ({reason}); is it truncated?") from None

    @property
    def _name(self) -> str:
        if self.path is None:
            return "in memory"
        return "in the data URI" if is_data_uri(self.path) else shortened(self.path)

    def _content(self) -> bytes:
        if self.data is not None:
            return self.data
        assert self.path is not None
        return decode_data_uri(self.path) if is_data_uri(self.path) else read_file(self.path)


def is_data_uri(address: str) -> bool:
    return address[:5].lower() == "data:" and "," in address


def decode_data_uri(address: str) -> bytes:
    """What a data URI holds: base64 of either alphabet, with or without padding and line ends, or percent-encoded.

    Raises:
        ValueError: it has other characters than those.
    """
    kind, _, content = address.partition(",")
    data = unquote_to_bytes(content.strip())
    if not kind.lower().replace(" ", "").endswith(";base64"):
        return data
    data = b"".join(data.split()).translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)


def data_uri(picture: PILImage.Image) -> str:
    return f"{DATA_URI}png;base64,{base64.b64encode(png_bytes(picture)).decode()}"


def shortened(text: str, most: int = SHOWN) -> str:
    """A text for a message: its beginning and end, where it is longer than `most` characters; on one line."""
    text = CONTROL.sub(lambda found: repr(found[0])[1:-1], text)
    if len(text) <= most:
        return text
    return f"{text[: most * 2 // 3]}...{text[-most // 4 :]} ({len(text)} characters)"
