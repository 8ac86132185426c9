"""Where `transformers` has a family's processor, prompts have its ids; codes stand where it puts its placeholder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    ChameleonImageProcessorPil,
    ChameleonProcessor,
    Emu3ImageProcessor,
    Emu3Processor,
    Emu3VQVAE,
    Emu3VQVAEConfig,
    JanusImageProcessorPil,
    JanusProcessor,
)
from transformers.models.emu3.image_processing_emu3 import smart_resize

from jam.codec import Codec, load_image_tokenizer
from jam.codec.shapes import fitted
from jam.documents import Document, Image, Message, Text
from support import layouts, tiny

GRID = (4, 4)
QUESTION = "How do I draw it, with 2 trees?"
LEAST, MOST = 32 * 32, 64 * 64  # pixels of a picture of Emu3
SHAPES = [(32, 32), (100, 40), (17, 90), (64, 64), (300, 200), (8, 8)]  # width, height

MODES = {
    "chameleon": (ChameleonProcessor, "return_for_text_completion"),
    "janus": (JanusProcessor, "generation_mode"),
}


def processor(family: str) -> Any:
    tokenizer = layouts.tokenizer(family)
    if family == "chameleon":
        images = ChameleonImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
        return ChameleonProcessor(images, tokenizer, image_seq_length=16)
    if family == "janus":
        return JanusProcessor(JanusImageProcessorPil(size={"height": 16, "width": 16}), tokenizer, num_image_tokens=16)
    return Emu3Processor(Emu3ImageProcessor(min_pixels=LEAST, max_pixels=MOST), tokenizer)


@pytest.fixture(scope="module")
def emu3(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    """With an image tokenizer of Emu3's 8 pixels a code, and the limits of the processor's pictures beside it."""
    folder: Path = tmp_path_factory.mktemp("emu3")
    sizes = {"base_channels": 32, "channel_multiplier": [1] * 4, "num_res_blocks": 1, "hidden_size": 32}
    small = {"codebook_size": 10, "embed_dim": 4, "latent_channels": 4, "attn_resolutions": []}
    others = {"num_attention_heads": 1, "temporal_downsample_factor": 2}
    Emu3VQVAE(Emu3VQVAEConfig(**sizes, **small, **others)).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text()) | {"sample_size": 32}
    (folder / "config.json").write_text(json.dumps(config))
    Emu3ImageProcessor(min_pixels=LEAST, max_pixels=MOST).save_pretrained(folder)
    return layouts.codec("emu3", GRID, load_image_tokenizer(folder))


@pytest.fixture(params=["chameleon", "emu3", "janus"])
def family(request: pytest.FixtureRequest) -> str:
    return request.param


def codec_of(family: str, request: pytest.FixtureRequest) -> Codec:
    return request.getfixturevalue("emu3") if family == "emu3" else layouts.codec(family, GRID)


def placeheld(ids: list[int], codec: Codec, placeholder: str) -> list[int]:
    """Our ids with the processor's placeholder for codes and, as it has them, row ends."""
    v, replaced = codec.vocabulary, codec.tokenizer.convert_tokens_to_ids(placeholder)
    row_end = v.layout.row_end if v.layout is not None else None
    return [replaced if v.is_image(token) or token == row_end else token for token in ids]


def require_modes(family: str) -> None:
    """Skip where the library's processor takes no such setting by its name (5.17)."""
    if family in MODES and not hasattr(*MODES[family]):
        pytest.skip(f"this version's processor of {family} does not take {MODES[family][1]}")


def ids_of(theirs: Any, text: str, **settings: Any) -> list[int]:
    return [int(token) for token in theirs(text=text, return_tensors=None, **settings)["input_ids"][0]]


def asked(family: str, question: str) -> str:
    """A question in the family's words; Chameleon's processor adds its own token behind."""
    return {
        "chameleon": "{}",
        "emu3": "You are a helpful assistant. USER: {} ASSISTANT:",
        "janus": "<|User|>: {}\n\n<|Assistant|>:",
    }[family].format(question)


def test_questions(family: str, request: pytest.FixtureRequest) -> None:
    codec = codec_of(family, request)
    assert codec.encode_prompt(QUESTION) == ids_of(processor(family), asked(family, QUESTION))


def test_texts(family: str, request: pytest.FixtureRequest) -> None:
    """The beginning of a document, which is continued as it is."""
    if family == "chameleon":
        require_modes(family)
    codec = codec_of(family, request)
    plain = {"return_for_text_completion": True} if family == "chameleon" else {}
    assert codec.encode_prompt(Document([Text(QUESTION)])) == ids_of(processor(family), QUESTION, **plain)


@pytest.mark.parametrize("shape", SHAPES)
def test_questions_with_pictures(family: str, shape: tuple[int, int], request: pytest.FixtureRequest) -> None:
    """Emu3's pictures keep their shape, within the limits of the processor."""
    codec, theirs = codec_of(family, request), processor(family)
    pixels = tiny.picture(0, shape)
    picture = Image(pixels=pixels) if family == "emu3" else Image(codes=[3] * 16)
    document = Document(messages=[Message("user", [Text("Look: "), picture, Text(QUESTION)])])
    token = {"chameleon": "<image>", "emu3": "<image>", "janus": "<image_placeholder>"}[family]
    expected = ids_of(theirs, asked(family, f"Look: {token}{QUESTION}"), images=[pixels])
    assert placeheld(codec.encode_prompt(document), codec, token) == expected


@pytest.mark.parametrize("ratio", ["1:1", "4:3", "9:16"])
def test_what_opens_a_picture(family: str, ratio: str, request: pytest.FixtureRequest) -> None:
    require_modes(family)
    codec, theirs, prompt = codec_of(family, request), processor(family), Document([Text(QUESTION)])
    if family == "emu3":
        settings = {"return_for_image_generation": True, "ratio": ratio, "image_area": 518400}
        expected = ids_of(theirs, QUESTION, **settings)
        grid = theirs.calculate_generate_size(ratio, 518400, 8)
    elif family == "janus":
        expected, grid = ids_of(theirs, QUESTION, generation_mode="image"), None
    else:  # whose processor is for reading
        expected = ids_of(theirs, QUESTION + "<racm3:break>", return_for_text_completion=True)
        grid = None
    assert codec.encode_prompt(prompt, opens_image=True, grid=grid) == expected


def test_the_unconditional_prompt_of_emu3() -> None:
    theirs, named = processor("emu3"), layouts.LAYOUTS["emu3"]
    layout = layouts.layout("emu3")
    expected = ids_of(theirs, named.unconditional, return_for_image_generation=True, ratio="1:1", image_area=518400)
    assert [*layout.unconditional, *layout.write_opening((90, 90))] == expected


def test_shapes_are_those_of_the_processor() -> None:
    for height in range(10, 2000, 173):
        for width in range(10, 2000, 211):
            for factor, least, most in ((8, 512 * 512, 1024 * 1024), (16, 64, 10**5)):
                got = fitted((height, width), factor, (least, most))
                assert got == smart_resize(height, width, factor, least, most)
    with pytest.raises(ValueError, match="2001 x 10 pixels is too long and thin"):
        fitted((10, 2001), 8, (64, 4096))


def test_pictures_of_many_shapes_come_back_in_theirs(emu3: Codec) -> None:
    document = Document([part for shape in SHAPES for part in (Text("a"), Image(pixels=tiny.picture(1, shape)))])
    encoded = emu3.encode(document)
    back = emu3.decode(encoded.ids)
    assert emu3.encode(back).ids == encoded.ids
    for picture, (width, height) in zip(back.images, SHAPES, strict=True):
        rows, columns = fitted((height, width), 8, (LEAST, MOST))
        assert picture.load().size == (columns, rows) and (picture.grid or GRID) == (rows // 8, columns // 8)
