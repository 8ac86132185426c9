"""A picture of a document: a file, a data URI, pixels, or the codes of an image tokenizer."""

from __future__ import annotations

import base64
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote_to_bytes

from PIL import Image as PILImage

from jam.documents.json_files import MAX_RECORD
from jam.documents.picture_paths import picture_path, shortened
from jam.documents.pixels import MAX_BYTES, PictureSizeError, check_size, png_bytes, read_pixels, to_rgb
from jam.files import FileError, read_bytes, reason

DATA_URI = "data:image/"
JPEG = b"\xff\xd8"  # first bytes of a JPEG file
# Files of pictures in base64: their first characters, and only characters of base64 after these.
BASE64 = re.compile(r"(?:/9j/|iVBORw0KGgo|R0lGOD|UklGR)[A-Za-z0-9+/_=\s-]{40,}")
WEB = re.compile(r"(?:https?|ftp|s3|gs|hf)://", re.IGNORECASE)


@dataclass
class Image:
    """A picture: `pixels`, the `path` of a file or a data URI, or image-tokenizer `codes`, row by row.

    `grid`: height and width of the codes; None: the model's grid. `data` is the content of a picture's file from a
    table or an archive; `path` is then the file's name there.
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
    def at(cls, address: str, folder: Path | None, where: str = "", allowed_media_path: Path | None = None) -> Image:
        """The picture of a data URI, of a file's content in base64, of a web address, or of a file (`picture_path`).

        Raises:
            PicturePathError: the file is in a forbidden place.
        """
        if is_data_uri(address):
            return cls(path=address, where=where)
        if BASE64.fullmatch(address):
            return cls(path=f"data:;base64,{address}", where=where)
        if WEB.match(address):
            return cls(path=address, where=where)
        return cls(path=picture_path(address, folder, allowed_media_path, where), where=where)

    @property
    def file(self) -> str | None:
        """The file of the pixels, or None if the pixels are in memory or on the web."""
        if self.pixels is not None or self.data is not None or self.path is None:
            return None
        return None if is_data_uri(self.path) or WEB.match(self.path) else self.path

    def load(self) -> PILImage.Image:
        """The picture as RGB pixels, upright, with transparent pixels on white.

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
        except FileError as error:
            raise ValueError(f"{self.where}picture {shortened(str(error), 300)}") from None
        except PictureSizeError as error:
            raise PictureSizeError(f"{self.where}picture {self._name} {error}") from None
        except Exception as error:  # decoders raise any error for a damaged file
            raise ValueError(
                f"{self.where}picture {self._name} cannot be read ({reason(error)}); is it truncated?"
            ) from None

    @property
    def _name(self) -> str:
        if self.path is None:
            return "in memory"
        return "in the data URI" if is_data_uri(self.path) else shortened(self.path)

    def _content(self) -> bytes:
        if self.data is not None:
            if len(self.data) > MAX_BYTES:
                raise PictureSizeError(f"has {len(self.data)} bytes, more than the {MAX_BYTES} of a picture's file")
            return self.data
        assert self.path is not None
        return decode_data_uri(self.path) if is_data_uri(self.path) else read_bytes(self.path, MAX_BYTES)


def is_data_uri(address: str) -> bool:
    return address[:5].lower() == "data:" and "," in address


def decode_data_uri(address: str) -> bytes:
    """The bytes of a data URI: base64 of either alphabet, with or without padding and line ends, or percent-encoded.

    Raises:
        ValueError: the data URI has other characters, or is too long.
    """
    if len(address) > MAX_RECORD:
        raise ValueError(f"it has {len(address)} characters, more than the {MAX_RECORD} of a data URI")
    kind, _, content = address.partition(",")
    data = unquote_to_bytes(content.strip())
    if not kind.lower().replace(" ", "").endswith(";base64"):
        return data
    data = b"".join(data.split()).translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)


def data_uri(picture: PILImage.Image) -> str:
    return f"{DATA_URI}png;base64,{base64.b64encode(png_bytes(picture)).decode()}"
