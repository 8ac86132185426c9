"""Pixels of a picture's file as in a viewer: RGB of 8 bits, upright, on white."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import ExifTags
from PIL import Image as PILImage

# Without formats that Pillow hands to another program (EPS), or cannot decode (HDF5, GRIB, ...).
FORMATS = (
    *("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000"),
    *("ICO", "DIB", "QOI", "PCX", "SGI", "PSD", "TGA"),
)
# Limits of a picture: one pixel shows nothing; a bomb, or a very thin picture after resizing, fills the memory.
MIN_SIDE, MAX_PIXELS, MAX_ASPECT = 2, 2**26, 100
MAX_BYTES = 2**30  # of a picture's file
SIZES = (
    f"a side must have {MIN_SIDE} or more, the longer one {MAX_ASPECT} times the shorter or less, and the picture "
    f"{MAX_PIXELS // 2**20} million or fewer"
)
# Orientations in EXIF, and the operations that turn pictures upright.
TURNS = {
    2: PILImage.Transpose.FLIP_LEFT_RIGHT,
    3: PILImage.Transpose.ROTATE_180,
    4: PILImage.Transpose.FLIP_TOP_BOTTOM,
    5: PILImage.Transpose.TRANSPOSE,
    6: PILImage.Transpose.ROTATE_270,
    7: PILImage.Transpose.TRANSVERSE,
    8: PILImage.Transpose.ROTATE_90,
}
PNG = b"\x89PNG\r\n\x1a\n"


class PictureSizeError(ValueError):
    """A picture is too small to show anything, or too large to read."""


def read_pixels(data: bytes) -> PILImage.Image:
    """RGB pixels of a file's content.

    Raises:
        PictureSizeError: the picture has too few or too many pixels.
        Exception: the content is damaged; decoders raise any error.
    """
    try:
        return _decoded(data)
    except ValueError as error:
        if "MAX_TEXT" not in str(error):  # Pillow's limits of descriptions in a PNG file
            raise
        return _decoded(_without_descriptions(data))


def to_rgb(picture: PILImage.Image) -> PILImage.Image:
    """RGB pixels of 8 bits, upright if EXIF has the orientation, with transparent pixels on white.

    Raises:
        ValueError: the picture has floats or 32 bits, and its values do not tell the value of white.
    """
    if picture.mode[0] in "IF":
        rgb = _eight_bits(picture).convert("RGB")
    elif picture.has_transparency_data:
        layer = picture.convert("RGBA")
        rgb = PILImage.alpha_composite(PILImage.new("RGBA", layer.size, "white"), layer).convert("RGB")
    else:
        rgb = picture.convert("RGB")
    turn = TURNS.get(_orientation(picture))  # read after the pixels, since Pillow turns TIFF and then updates EXIF
    rgb = rgb.transpose(turn) if turn is not None else rgb
    rgb.info = {}  # drops the old orientation
    return rgb


def check_size(picture: PILImage.Image) -> None:
    """Raises PictureSizeError if a picture is beyond the limits."""
    width, height = picture.size
    short, long = sorted(picture.size)
    if short < MIN_SIDE or short * long > MAX_PIXELS or long > MAX_ASPECT * short:
        raise PictureSizeError(f"has {width} x {height} pixels; {SIZES}")


def png_bytes(picture: PILImage.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _decoded(data: bytes) -> PILImage.Image:
    try:
        with (
            warnings.catch_warnings(action="ignore"),  # `check_size` finds bombs; damaged EXIF is ignored
            PILImage.open(io.BytesIO(data), formats=_formats()) as picture,
        ):
            check_size(picture)
            return to_rgb(picture)
    except PILImage.DecompressionBombError:
        raise PictureSizeError(f"is too large; {SIZES}") from None
    except PILImage.UnidentifiedImageError:  # whose message has an address of memory
        raise ValueError(f"it is of none of the formats {', '.join(FORMATS)}") from None


def _formats() -> list[str]:
    """The formats that this version of Pillow opens."""
    PILImage.init()
    return [name for name in FORMATS if name in PILImage.OPEN]


def _orientation(picture: PILImage.Image) -> int:
    try:
        return int(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # readers raise any error for damaged EXIF, which does not damage the picture
        return 1


def _eight_bits(picture: PILImage.Image) -> PILImage.Image:
    """One channel of 16 or 32 bits, or of floats, as grey of the upper 8 bits, as Pillow converts 16-bit colours.

    If the format does not define white, white is the least of 1 (floats), 255 and 65535 that no value exceeds.
    """
    values = np.asarray(picture)
    low, high = values.min(), values.max()
    if picture.mode.startswith("I;16"):
        white = 4095.0 if _bits(picture) == 12 else 65535.0
    elif picture.mode == "I" and picture.format in ("PNG", "PPM"):
        white = 65535.0
    else:
        limits = (1.0, 255.0, 65535.0) if picture.mode == "F" else (255.0, 65535.0)
        fitting = next((limit for limit in limits if low >= 0 and high <= limit), None)
        if fitting is None:
            raise ValueError(
                f"its values lie between {low:g} and {high:g}, which does not say how bright white is; "
                "store it in 8 or 16 bits, or as floats of 0 to 1"
            )
        white = fitting
    steps = white + 1 if white > 1 else 1.0
    grey = np.minimum(255, np.floor(values.astype(np.float64) * (256 / steps))).astype(np.uint8)
    if isinstance(clear := picture.info.get("transparency"), int):
        grey[values == clear] = 255
    return PILImage.fromarray(grey)


def _bits(picture: PILImage.Image) -> int | None:
    """Bits of a value by the tags of a TIFF file, or None."""
    tags = getattr(picture, "tag_v2", {})
    return next(iter(tags.get(258, ())), None)


def _without_descriptions(data: bytes) -> bytes:
    """A PNG file without colour profile, packed texts and texts above 1 MB, which change no pixels."""
    if not data.startswith(PNG):
        return data
    kept, place = [PNG], len(PNG)
    while place < len(data):
        kind, end = data[place + 4 : place + 8], place + 12 + int.from_bytes(data[place : place + 4])
        is_text = kind in (b"tEXt", b"iTXt")
        is_packed = kind in (b"iCCP", b"zTXt") or (kind == b"iTXt" and _is_packed(data[place + 8 : end]))
        if not is_packed and not (is_text and end - place > 2**20):
            kept.append(data[place:end])
        place = end
    return b"".join(kept)


def _is_packed(international: bytes) -> bool:
    """True if the text of an ``iTXt`` chunk is compressed."""
    return international.partition(b"\0")[2][:1] == b"\1"
