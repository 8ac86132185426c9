"""Recorded numbers of the built-in parents, and of the model that they are fused to: perplexities and greedy ids."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

import jam
from jam import Document, GenerationSettings, Model, Text
from jam.documents import Image
from jam.generation import Request
from jam.tutorials.corpora import captioned_pictures, interleaved_tutorials, text_tutorials

QUESTION = "Teach me to draw a yellow car with pink wheels."
CAPTION = "A big rocket on the left with a green body, a red nose, pink fins and a yellow window."
PERPLEXITIES: dict[str, dict[str, dict[str, float]]] = {
    "text": {"lessons": {"text_ppl": 1.2160}, "captions": {"text_ppl": 138.55}},
    "image": {
        "captioned pictures": {"text_ppl": 2.2610, "image_ppl": 1.0002},
        "tutorials": {"text_ppl": 70.264, "image_ppl": 2.0146},
    },
    "fused": {
        "lessons": {"text_ppl": 1.2160},
        "captions": {"text_ppl": 138.69},
        "tutorials": {"text_ppl": 83.882, "image_ppl": 2.0146},
    },
}
LESSON = [349, 257, 290, 417, 280, 265, 319, 26, 271, 257, 316, 286, 14, 199, 381, 360, 312, 452, 14, 199]
ROCKET = [
    *(0, 0, 0, 0, 0, 0, 0, 0),
    *(0, 0, 35, 36, 0, 0, 0, 0),
    *(0, 0, 37, 34, 0, 0, 0, 0),
    *(0, 0, 7, 7, 0, 0, 0, 0),
    *(0, 0, 7, 7, 0, 0, 0, 0),
    *(0, 74, 1, 1, 10, 0, 0, 0),
    *(74, 5, 1, 1, 5, 10, 0, 0),
    *(0, 0, 0, 0, 0, 0, 0, 0),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    out = str(tmp_path_factory.mktemp("fused") / "model")
    jam.fuse(jam.FuseConfig(str(jam.PARENTS / "text"), str(jam.PARENTS / "image"), out, method="cross", every=2))
    folders = {"text": jam.PARENTS / "text", "image": jam.PARENTS / "image", "fused": Path(out)}
    return {name: jam.load(folder, device="cpu") for name, folder in folders.items()}


@pytest.fixture(scope="module")
def corpora() -> dict[str, list[Document]]:
    """A few held-out documents of each kind, and captions without their pictures."""
    makers = {"lessons": text_tutorials, "captioned pictures": captioned_pictures, "tutorials": interleaved_tutorials}
    made = {name: list(islice(maker(0, held_out=True), 8)) for name, maker in makers.items()}
    return made | {"captions": [Document([Text(one.texts[0])]) for one in made["captioned pictures"]]}


def test_perplexities(models: dict[str, Model], corpora: dict[str, list[Document]]) -> None:
    """To four digits; those of the fused model are its parents', but for what controls take of texts."""
    for name, expected in PERPLEXITIES.items():
        for kind, values in expected.items():
            report = jam.evaluate(models[name], corpora[kind])
            assert {key: report[key] for key in values} == pytest.approx(values, rel=1e-4), (name, kind)


@pytest.mark.parametrize("name", ["text", "fused"])
def test_a_lesson(models: dict[str, Model], name: str) -> None:
    model = models[name]
    request = Request(model.codec.encode_prompt(QUESTION), GenerationSettings(20, temperature=0.0))
    assert model.run([request])[0].new_ids == LESSON


@pytest.mark.parametrize("name", ["image", "fused"])
def test_a_picture(models: dict[str, Model], name: str) -> None:
    document = models[name].generate(Document([Text(CAPTION)]), max_new_tokens=66, min_images=1, temperature=0.0)
    picture = next(part for part in document.content if isinstance(part, Image))
    assert picture.codes == ROCKET
