"""Pictures become squares as the families' own image processors make them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image as PILImage
from torch.testing import assert_close
from transformers.models.emu3.image_processing_emu3 import Emu3ImageProcessor

from jam.codec.coders import CODERS, cropped, padded
from jam.documents import Image, to_rgb
from support import tiny

SIZES = [(64, 64), (100, 64), (64, 100), (131, 97), (33, 50), (50, 33), (40, 41), (300, 17)]


def pil_processor(family: str, name: str):
    """The library's processor that needs no torchvision; versions before it had one have none."""
    module = pytest.importorskip(f"transformers.models.{family}.image_processing_pil_{family}")
    return getattr(module, name)


def smooth(size: tuple[int, int]) -> PILImage.Image:
    return tiny.picture(sum(size), (max(2, size[0] // 8), max(2, size[1] // 8))).resize(size)


@pytest.mark.parametrize("size", SIZES)
def test_chameleon(size):
    processor = pil_processor("chameleon", "ChameleonImageProcessorPil")(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}
    )
    theirs = processor(smooth(size), return_tensors="np")["pixel_values"][0]
    ours = np.asarray(cropped(smooth(size), 64)).transpose(2, 0, 1)
    assert np.array_equal(((theirs + 1) / processor.rescale_factor).round(), ours)


@pytest.mark.parametrize("size", SIZES)
def test_janus(size):
    half = [0.5, 0.5, 0.5]
    processor = pil_processor("janus", "JanusImageProcessorPil")(
        size={"height": 64, "width": 64}, image_mean=half, image_std=half
    )
    theirs = processor(smooth(size), return_tensors="np")["pixel_values"][0]
    ours = np.asarray(padded(smooth(size), 64)).transpose(2, 0, 1)
    assert np.array_equal(((theirs + 1) * 127.5).round(), ours)


def test_emu3():
    """A square, which its processor may resize too; other shapes keep theirs there, and are cropped here."""
    processor = Emu3ImageProcessor(min_pixels=64 * 64, max_pixels=64 * 64, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    for side in (64, 96, 40):
        theirs = np.asarray(processor(smooth((side, side)), return_tensors="np")["pixel_values"]).reshape(-1, 3, 64, 64)
        ours = np.asarray(CODERS["emu3_vqgan"].fit(smooth((side, side)), 64)).transpose(2, 0, 1)
        assert np.array_equal(((theirs[0] + 1) * 127.5).round(), ours)
    assert CODERS["emu3_vqgan"].fit(smooth((100, 64)), 64).size == (64, 64)


def test_pixels_of_a_tokenizer(tmp_path):
    """-1 .. 1, channels first; what has the right size already is not resampled."""
    tokenizer = tiny.image_tokenizer(tmp_path / "it")
    side = tokenizer.info.resolution
    picture = tiny.picture(0, (side, side))
    pixels = tokenizer.to_pixels(picture)
    assert pixels.shape == (3, side, side) and pixels.min() >= -1 and pixels.max() <= 1
    assert_close(((pixels + 1) * 127.5).round().byte().permute(1, 2, 0).numpy(), np.array(picture))
    assert tokenizer.encode([]).shape == (0, *tokenizer.info.grid)


def test_transparent_pictures_stand_on_white():
    layer = PILImage.new("RGBA", (2, 2), (255, 0, 0, 255))
    layer.putpixel((1, 0), (0, 0, 255, 0))
    buffer = io.BytesIO()
    layer.save(buffer, format="PNG")
    assert Image(data=buffer.getvalue()).load().tobytes() == bytes([255, 0, 0, 255, 255, 255, 255, 0, 0, 255, 0, 0])
    assert Image(pixels=layer).load().mode == to_rgb(layer.convert("P")).mode == "RGB"


def test_damaged_pictures_are_bad_documents():
    """Whatever the decoder raises."""
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    tiny.picture(0, (40, 30)).save(buffer, format="PNG")
    whole = buffer.getvalue()
    failed = 0
    for _ in range(60):
        damaged = bytearray(whole)
        for place in rng.integers(8, len(whole), 12):
            damaged[place] = int(rng.integers(256))
        try:
            Image(data=bytes(damaged), where="d:1: ").load()
        except ValueError as error:
            assert str(error).startswith("d:1: picture")
            failed += 1
    assert failed > 10
