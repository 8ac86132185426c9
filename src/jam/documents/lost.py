"""Detection of pictures in a record that are not read, for which the record is rejected.

Otherwise a text would silently be learnt without its picture. All values beside the parts of a document are checked for
contents, names and addresses of pictures, except names under keys that describe the record.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from PIL import Image as PILImage

from jam.documents.pictures import BASE64, WEB, Image, is_data_uri


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Suffixes of files of pictures, and of files that are not read: other formats, drawings, films.
READ_SUFFIXES = _words(
    "jpg jpeg jpe jfif png apng webp gif bmp dib tif tiff ppm pgm pbm pnm pfm avif jp2 j2k jpf jpx j2c ico qoi pcx sgi "
    "psd tga"
)
SUFFIXES = READ_SUFFIXES | _words("heic heif jxl svg svgz eps dng cr2 nef arw exr hdr mp4 m4v mov webm mkv avi")
# First bytes of such files.
BEGINNINGS = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*", b"qoif", b"8BPS", b"\0\0\0\x0cjP  "),
    *(b"\0\0\0\x0cJXL ", b"\xffO\xffQ", b"\x1aE\xdf\xa3"),
)
# Keys that describe a record and its source: names and addresses under these keys are no pictures of the record.
DESCRIPTIONS = _words(
    "id uid uuid index source dataset license licence author authors creator credit credits attribution copyright "
    "publisher title subtitle language lang category categories topic tag tags keyword keywords date created modified "
    "rating score split citation reference references doi isbn note notes comment comments finish_reason"
)
# Words in keys of a picture, and words in keys of a picture's name or address.
PICTURE = _words("image images img imgs picture pictures pic pics photo photos pixel pixels thumbnail screenshot")
ADDRESS = _words("url urls uri link href name names file files filename path paths filepath key src original")
LONGEST_NAME = 1000
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def require_none(fields: Mapping[str, Any], has_pictures: bool, where: str) -> None:
    """Raises ValueError, with the key, if a value looks like a picture.

    Args:
        fields: the unread fields of a record, a message or a part.
        has_pictures: True if pictures were read, which values under keys of names and addresses may then describe.
    """
    for key, value in fields.items():
        if looks_like_picture(key, value, has_pictures):
            raise ValueError(
                f'{where}what stands under "{key:.80}" looks like a picture and is not read; name it "image" or '
                '"images" if it belongs to the text, else leave it out (docs/data.md)'
            )


def looks_like_picture(key: str, value: Any, has_pictures: bool = False) -> bool:
    """True if a value is, holds or names a picture."""
    words = {word.lower() for word in WORD.findall(key)}
    is_named = bool(words & PICTURE)
    match value:
        case PILImage.Image() | Image():
            return True
        case bytes() | bytearray():
            return bool(value) and (is_named or names_picture(f".{key}") or begins_picture(bytes(value[:16])))
        case str():
            if is_data_uri(value):
                return value[:11].lower() == "data:image/" or is_named
            if BASE64.fullmatch(value):
                return True
            if key.lower() in DESCRIPTIONS:
                return False
            is_address = names_picture(value) or (is_named and WEB.match(value) is not None)
            return is_address and not (has_pictures and words & ADDRESS)
        case Mapping():
            return any(looks_like_picture(_inner(key, name), inner, has_pictures) for name, inner in value.items())
        case list() | tuple():
            return (is_named and _is_array(value)) or _any(key, value, has_pictures)
    return False


def begins_picture(content: bytes) -> bool:
    """True if `content` is the beginning of a file of a picture (or a film)."""
    return (
        content.startswith(BEGINNINGS)
        or (content[:4] == b"RIFF" and content[8:12] in (b"WEBP", b"AVI "))
        or content[4:8] == b"ftyp"
    )


def names_picture(name: str) -> bool:
    """True if a text is the name or address of a file with the suffix of a picture."""
    if len(name) > LONGEST_NAME or "\n" in name:
        return False
    path = re.split(r"[?#]", name, maxsplit=1)[0] if WEB.match(name) else name
    return "." in path and path.rpartition(".")[2].lower() in SUFFIXES


def _inner(key: str, name: Any) -> str:
    """The key of a value in an object, for `looks_like_picture`; ``bytes`` in ``image`` becomes ``image_bytes``."""
    return f"{key}_{name}" if str(name) in ("bytes", "path", "url", "data", "src") else str(name)


def _any(key: str, values: Iterable[Any], has_pictures: bool) -> bool:
    return any(looks_like_picture(key, value, has_pictures) for value in values if not isinstance(value, int | float))


def _is_array(value: Sequence[Any]) -> bool:
    """True if nested lists are rows of numbers."""
    row = value[0] if value else None
    return isinstance(row, list | tuple) and bool(row) and isinstance(row[0], list | tuple | int | float)
