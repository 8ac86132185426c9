"""Pictures as cameras, scanners and programs store them: turned, deep, with much beside them, in data URIs."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image as PILImage
from PIL.PngImagePlugin import PngInfo

from jam.documents import Image, to_rgb
from jam.documents.pixels import FORMATS, MAX_BYTES
from support import tiny

CASES = Path(__file__).parents[3] / "shared" / "cases"
RAMP = np.arange(64, dtype=np.uint16) * 65535 // 63
ORIENTATION = 274


def stored(picture: PILImage.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


def loaded(data: bytes) -> np.ndarray:
    return np.asarray(Image(data=data).load())


def upright() -> PILImage.Image:
    """Red above, blue below, with a green corner above on the left: no turn leaves it as it is."""
    array = np.full((16, 12, 3), (0, 0, 220), dtype=np.uint8)
    array[:8] = (220, 0, 0)
    array[:4, :4] = (0, 220, 0)
    return PILImage.fromarray(array)


# What a camera stores that is held so; EXIF says how it is to be turned back.
HELD = {
    1: None,
    2: PILImage.Transpose.FLIP_LEFT_RIGHT,
    3: PILImage.Transpose.ROTATE_180,
    4: PILImage.Transpose.FLIP_TOP_BOTTOM,
    5: PILImage.Transpose.TRANSPOSE,
    6: PILImage.Transpose.ROTATE_90,
    7: PILImage.Transpose.TRANSVERSE,
    8: PILImage.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", HELD)
def test_turned_pictures_are_read_upright(kind, orientation):
    exif = PILImage.Exif()
    exif[ORIENTATION] = orientation
    turned = upright() if HELD[orientation] is None else upright().transpose(HELD[orientation])
    data = stored(turned, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    assert np.array_equal(loaded(data), np.asarray(upright()))
    once = Image(data=data).load()
    assert np.array_equal(np.asarray(Image(pixels=once).load()), np.asarray(upright()))  # turned once, not twice
    with PILImage.open(io.BytesIO(data)) as opened:  # pixels of the Python API
        assert np.array_equal(np.asarray(to_rgb(opened)), np.asarray(upright()))


def test_damaged_exif_costs_no_picture():
    data = stored(upright(), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff garbage")
    assert np.array_equal(loaded(data), np.asarray(upright()))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_pictures_of_16_bits(kind):
    deep = PILImage.fromarray(np.tile(RAMP, (64, 1)))
    assert np.array_equal(loaded(stored(deep, kind))[0, :, 0], RAMP >> 8)
    assert np.array_equal(np.asarray(Image(pixels=deep).load())[0, :, 1], RAMP >> 8)


def test_pictures_of_floats_and_of_32_bits():
    unit = PILImage.fromarray(np.tile(RAMP.astype(np.float32) / 65535, (64, 1)))
    assert np.array_equal(loaded(stored(unit, "TIFF"))[0, :, 0], RAMP >> 8)
    bytes_ = np.tile(RAMP >> 8, (64, 1))
    for kind in (np.float32, np.int32):
        assert np.array_equal(loaded(stored(PILImage.fromarray(bytes_.astype(kind)), "TIFF"))[..., 0], bytes_)
        wide = PILImage.fromarray(np.tile(RAMP, (64, 1)).astype(kind))
        assert np.array_equal(loaded(stored(wide, "TIFF"))[0, :, 0], RAMP >> 8)
    for values in ([-1.0, 0.5], [0.0, np.nan], [0.0, 70000.0]):
        odd = stored(PILImage.fromarray(np.tile(np.array(values, dtype=np.float32), (4, 2))), "TIFF")
        with pytest.raises(ValueError, match="does not say how bright white is"):
            loaded(odd)


def test_a_transparent_value_of_16_bits_stands_on_white():
    picture = PILImage.fromarray(np.array([[0, 257 * 100], [257 * 100, 257 * 50]], dtype=np.uint16))
    assert loaded(stored(picture, "PNG", transparency=257 * 100))[..., 0].tolist() == [[0, 255], [255, 50]]


def test_colours_of_16_bits_are_what_they_were():
    """Pillow has no such mode and takes the upper bytes; a PNG file by hand."""
    rows = b"".join(b"\0" + np.array([[v, 65535 - v, v // 2] for v in RAMP.tolist()], ">u2").tobytes() for _ in "ab")

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", 64, 2, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    found = loaded(data)[0]
    assert np.array_equal(found[:, 0], RAMP >> 8) and np.array_equal(found[:, 1], (65535 - RAMP) >> 8)


@pytest.mark.parametrize("kind", ["zTXt", "iTXt", "packed iTXt", "tEXt", "iCCP"])
def test_much_that_describes_a_picture_costs_it_nothing(kind):
    """Above Pillow's limits of 1 MB packed and 64 MB in all, a small text beside it: the pixels are the same."""
    info, options = PngInfo(), {}
    if kind == "zTXt":
        info.add_text("prompt", "x" * 3_000_000, zip=True)
    elif kind == "tEXt":
        for number in range(3):
            info.add_text(f"prompt{number}", "x" * 25_000_000)
    elif kind == "iCCP":
        options["icc_profile"] = bytes(3_000_000)
    else:
        for number in range(3):
            info.add_itxt(f"XML{number}", "x" * 25_000_000, zip=kind != "iTXt")
    exif = PILImage.Exif()
    exif[ORIENTATION] = 3
    data = stored(upright().transpose(HELD[3]), "PNG", pnginfo=info, exif=exif, **options)
    with pytest.raises(ValueError, match="MAX_TEXT"):
        PILImage.open(io.BytesIO(data)).load()
    assert np.array_equal(loaded(data), np.asarray(upright()))


def test_every_known_format_is_read():
    for kind in ("JPEG2000", "AVIF", "GIF", "BMP", "PPM", "ICO", "TGA", "PCX", "SGI", "DIB", "QOI"):
        PILImage.init()
        if kind not in PILImage.SAVE or kind not in PILImage.OPEN:
            continue
        assert kind in FORMATS
        assert loaded(stored(tiny.picture(1, (16, 12)), kind)).shape == (12, 16, 3), kind


def test_formats_that_need_another_program_are_not_opened(tmp_path):
    tiny.picture(1, (16, 12)).save(tmp_path / "x.eps")
    with pytest.raises(ValueError, match=r"x.eps cannot be read \(it is of none of the formats PNG, JPEG") as caught:
        Image(path=str(tmp_path / "x.eps")).load()
    assert " at 0x" not in str(caught.value)
    with pytest.raises(ValueError, match="no regular file"):
        Image(path=str(tmp_path)).load()
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(ValueError, match=f"more than the {MAX_BYTES}"):
        Image(path=str(tmp_path / "huge.png")).load()


def forms(data: bytes) -> dict[str, str]:
    """The same picture in every form of a data URI that people write."""
    plain, head = base64.b64encode(data).decode(), "data:image/png;base64,"
    return {
        "plain": head + plain,
        "lines": head + "\n" + "\r\n".join(plain[start : start + 76] for start in range(0, len(plain), 76)) + "\n",
        "URL-safe": head + base64.urlsafe_b64encode(data).decode(),
        "no padding": head + base64.urlsafe_b64encode(data).decode().rstrip("="),
        "percent-encoded base64": head + quote(plain, safe=""),
        "percent-encoded bytes": "data:image/png," + quote(data),
        "other case and a parameter": "DATA:Image/PNG;charset=utf-8;BASE64," + plain,
        "no type": "data:;base64," + plain,
        "base64 alone": plain,
    }


@pytest.mark.parametrize("form", list(forms(b"")))
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_data_uris(form, seed):
    picture = tiny.picture(seed, (7 + seed, 5))  # of lengths with each padding
    image = Image.at(forms(stored(picture, "PNG"))[form], Path("nowhere"))
    assert image.file is None and image.load().tobytes() == picture.tobytes()


@pytest.mark.parametrize(
    "address",
    ["data:image/png;base64," + "A" * 3_000_000, "data:image/png;base64," + "?" * 3_000_000, "x" * 3_000_000 + ".png"],
)
def test_messages_quote_no_megabytes(address):
    with pytest.raises(ValueError, match="cannot be read") as caught:
        Image.at(address, Path("nowhere"), "a.jsonl:1: ").load()
    assert len(str(caught.value)) < 700


@pytest.mark.skipif(not CASES.is_dir(), reason="there are no cases beside the repository")
def test_cases():
    expected = loaded((CASES / "exif" / "upright.png").read_bytes()).astype(int)
    for path in sorted((CASES / "exif").iterdir()):
        difference = np.abs(loaded(path.read_bytes()).astype(int) - expected)
        assert difference.shape == expected.shape and difference.mean() < 1, path  # of JPEG, at the edge
    ramp = loaded((CASES / "deep" / "ramp8.png").read_bytes())
    for path in sorted((CASES / "deep").iterdir()):
        assert np.array_equal(loaded(path.read_bytes()), ramp), path
