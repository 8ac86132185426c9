"""The built-in world: enough of it, words that are read back, corpora without held-out pairs, an honest checker."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice, product

import numpy as np
import pytest
from PIL import Image as PILImage
from PIL import ImageDraw

from jam.codec import load_image_tokenizer
from jam.documents import Image, Text
from jam.tutorials import PARENTS
from jam.tutorials.checker import check_answer, picture_shows
from jam.tutorials.corpora import (
    captioned_pictures,
    held_out_captions,
    held_out_prompts,
    interleaved_tutorials,
    text_tutorials,
)
from jam.tutorials.scenes import Scene, random_scene
from jam.tutorials.texts import FIRST, LAST, NEXT, Request, caption, read_steps, request_for, step_texts
from jam.tutorials.things import BACKGROUND, BASELINE, COLOURS, HELD_OUT, PLACES, RESOLUTION, SIZES, THINGS

TRUE_PICTURES = 150


def scenes(count: int, seed: int, complete: bool = False) -> list[Scene]:
    rng = random.Random(seed)
    drawn = [random_scene(rng, held_out=index % 2 == 0) for index in range(count)]
    return drawn if complete else [scene.first(rng.randint(1, len(scene.parts))) for scene in drawn]


def test_there_is_enough_of_the_world() -> None:
    """In what the corpora are made of, without the held-out pairs."""
    assert len(THINGS) >= 12
    assert len(COLOURS) >= 8
    assert {len(thing.parts) for thing in THINGS.values()} == {2, 3, 4}
    rng = random.Random(0)
    drawn = [random_scene(rng) for _ in range(4000)]
    assert len({scene.draw().tobytes() for scene in drawn}) >= 2000
    assert {(scene.thing, scene.size, scene.place) for scene in drawn} == set(product(THINGS, SIZES, PLACES))
    house = next(scene for scene in drawn if scene.thing == "house")
    assert len({tuple(step_texts(house, rng)) for _ in range(500)}) == len(FIRST) * len(NEXT) * len(LAST)


def blocks(scenes: list[Scene]) -> set[tuple[str, bytes]]:
    """The 8 x 8 pixels of all codes, with the name of their thing."""
    found = set()
    for scene in scenes:
        for step in scene.steps():
            pixels = np.asarray(step.draw())
            for y, x in product(range(0, RESOLUTION, 8), repeat=2):
                found.add((scene.thing, pixels[y : y + 8, x : x + 8].tobytes()))
    return found


def test_held_out_pictures_are_made_of_known_blocks() -> None:
    """But for the slanted corners of the mushroom, whose top no other thing has: an orange one was never seen."""
    rng = random.Random(13)
    known = {block for _, block in blocks([random_scene(rng) for _ in range(6000)])}
    others = blocks([random_scene(rng, held_out=True) for _ in range(1500)])
    assert {thing for thing, block in others if block not in known} == {"mushroom"}


def test_every_part_changes_the_picture() -> None:
    for scene in scenes(200, seed=1, complete=True):
        pictures = [step.draw().tobytes() for step in scene.steps()]
        assert len(set(pictures)) == len(scene.parts)


def test_step_sentences_are_read_back_exactly() -> None:
    rng = random.Random(2)
    for scene in scenes(500, seed=2, complete=True):
        texts = step_texts(scene, rng)
        assert read_steps(texts) == scene
        assert all(read_steps(texts[:count]) == scene.first(count) for count in range(1, len(texts)))


@pytest.mark.parametrize(
    "texts",
    [
        [],
        ["Draw something."],
        ["Start the big house on the left with a red body.", "Add a red sail."],
        ["Start the big house on the left with a red body.", "Add a red body."],
        ["Start the big house on the left with a red body and a blue roof."],
        ["Start the big house with a red body."],
        ["Start the big small house on the left with a red body."],
        ["Start the big house on the left with a red body.", "Add a blue roof on the right."],
    ],
)
def test_sentences_that_cannot_be_followed_are_refused(texts: list[str]) -> None:
    assert read_steps(texts) is None


def test_requests_are_met_by_their_scene_only() -> None:
    rng = random.Random(3)
    for scene in scenes(300, seed=3, complete=True):
        request = request_for(scene, rng)
        assert request.is_met_by(scene)
        assert not request.is_met_by(scene.first(len(scene.parts) - 1))
        main = THINGS[scene.thing].main
        other = next(colour for colour in COLOURS if colour != dict(scene.parts)[main])
        assert not request.is_met_by(recoloured(scene, main, other))


def test_no_corpus_has_a_held_out_pair() -> None:
    assert {thing for thing, _ in HELD_OUT} == set(THINGS)
    assert {colour for _, colour in HELD_OUT} == set(COLOURS)
    for document in islice(text_tutorials(5), 1000):
        assert not read_steps(document.messages[1].content[0].text.split("\n")).is_held_out  # type: ignore[union-attr]
    for document in islice(interleaved_tutorials(5), 300):
        scene = read_steps([part.text for part in document.answer if isinstance(part, Text)])
        assert scene is not None and not scene.is_held_out
    for document in islice(captioned_pictures(5), 1000):
        words = document.texts[0].lower().replace(".", " ").replace(",", " ").replace(":", " ").split()
        thing = next(word for word in words if word in THINGS)
        pairs = {(thing, words[i]) for i in range(len(words) - 1) if words[i + 1] == THINGS[thing].main}
        assert not pairs & HELD_OUT
    assert all((request.thing, request.colour) in HELD_OUT for _, request in held_out_prompts(200))
    assert all(scene.is_held_out for _, scene in held_out_captions(100))


def test_lessons_show_their_own_steps() -> None:
    for document in islice(interleaved_tutorials(6), 50):
        answer = document.answer
        scene = read_steps([part.text for part in answer if isinstance(part, Text)])
        assert scene is not None
        verdict = check_answer(answer, Request(scene.thing, dict(scene.parts)[THINGS[scene.thing].main]), ended=True)
        assert verdict.right
        assert not check_answer(answer[:-1], Request(scene.thing, "red"), ended=True).well_formed


def test_captions_name_every_part_and_no_other() -> None:
    rng = random.Random(8)
    for scene in scenes(200, seed=8):
        text = caption(scene, rng).lower()
        assert all(f"{colour} {part}" in text for part, colour in scene.parts)
        assert scene.thing in text and scene.size in text and PLACES[scene.place] in text


def recoloured(scene: Scene, part: str, colour: str) -> Scene:
    return replace(scene, parts=tuple((name, colour if name == part else old) for name, old in scene.parts))


def tampered(scene: Scene, rng: random.Random) -> Iterator[tuple[str, Scene]]:
    """The scene with one thing changed: a part's colour, its place, a part more, a part less."""
    used = {colour for _, colour in scene.parts}
    other = rng.choice([colour for colour in COLOURS if colour not in used])
    for part, _ in scene.parts:
        yield "colour", recoloured(scene, part, other)
    for place in set(PLACES) - {scene.place}:
        yield "place", replace(scene, place=place)
    yield "size", replace(scene, size=next(size for size in SIZES if size != scene.size))
    for name, _ in scene.parts:
        yield "left out", replace(scene, parts=tuple(kept for kept in scene.parts if kept[0] != name))
    for more in THINGS[scene.thing].parts:
        if more.name not in dict(scene.parts):
            yield "added", replace(scene, parts=(*scene.parts, (more.name, other)))


@pytest.fixture(scope="module")
def round_trips() -> list[tuple[Scene, PILImage.Image]]:
    """True pictures after the built-in image tokenizer."""
    tokenizer = load_image_tokenizer(PARENTS / "image" / "image_tokenizer")
    shown = scenes(TRUE_PICTURES, seed=9)
    return list(zip(shown, tokenizer.decode(tokenizer.encode([scene.draw() for scene in shown])), strict=True))


def test_the_checker_accepts_true_pictures(round_trips: list[tuple[Scene, PILImage.Image]]) -> None:
    assert all(picture_shows(scene.draw(), scene) for scene, _ in round_trips)
    accepted = [picture_shows(picture, scene) for scene, picture in round_trips]
    assert sum(accepted) >= 0.99 * len(accepted)


@pytest.mark.parametrize("change", ["colour", "place", "size", "left out", "added"])
def test_the_checker_refuses_what_was_tampered_with(
    round_trips: list[tuple[Scene, PILImage.Image]], change: str
) -> None:
    rng = random.Random(10)
    judged = [
        (scene, other, picture_shows(picture, other))
        for scene, picture in round_trips
        for kind, other in tampered(scene, rng)
        if kind == change and other.draw().tobytes() != scene.draw().tobytes()
    ]
    assert len(judged) >= 60
    assert [(scene, other) for scene, other, accepted in judged if accepted] == []


def with_a_part_moved(scene: Scene) -> Iterator[PILImage.Image]:
    """The picture with each part in turn one unit beside its place, in each direction."""
    unit = SIZES[scene.size]
    for moved, _ in scene.parts:
        for dx, dy in ((unit, 0), (-unit, 0), (0, unit), (0, -unit)):
            picture = PILImage.new("RGB", (RESOLUTION, RESOLUTION), BACKGROUND)
            for name, colour in scene.parts:
                left, top = (scene.left + dx, dy) if name == moved else (scene.left, 0)
                for shape in THINGS[scene.thing].part(name).shapes:
                    shape.draw(ImageDraw.Draw(picture), COLOURS[colour], left, BASELINE - 3 * unit + top, unit)
            yield picture


def test_the_checker_refuses_a_part_that_was_moved() -> None:
    """In the picture itself, and after the image tokenizer."""
    tokenizer = load_image_tokenizer(PARENTS / "image" / "image_tokenizer")
    judged = [(scene, picture) for scene in scenes(30, seed=12) for picture in with_a_part_moved(scene)]
    judged = [(scene, picture) for scene, picture in judged if picture.tobytes() != scene.draw().tobytes()]
    assert len(judged) >= 200
    pictures = [picture for _, picture in judged]
    for seen in (pictures, tokenizer.decode(tokenizer.encode(pictures))):
        assert [scene for (scene, _), picture in zip(judged, seen, strict=True) if picture_shows(picture, scene)] == []


def test_the_checker_refuses_shuffled_texts(round_trips: list[tuple[Scene, PILImage.Image]]) -> None:
    pictures = [picture for _, picture in round_trips]
    others = [scene for scene, _ in round_trips]
    random.Random(11).shuffle(others)
    assert sum(map(picture_shows, pictures, others)) <= 0.05 * len(pictures)


def test_an_answer_is_judged_by_the_texts_before_each_picture() -> None:
    scene = Scene("house", "big", "left", (("body", "red"), ("roof", "brown"), ("door", "blue")))
    texts = ["Start the big house on the left with a red body.", "Add a brown roof.", "Finish with a blue door."]
    pictures = [Image(pixels=step.draw()) for step in scene.steps()]
    answer = [part for text, picture in zip(texts, pictures, strict=True) for part in (Text(text), picture)]
    request = Request("house", "red", accents=(("door", "blue"),))
    assert check_answer(answer, request, ended=True).right
    assert not check_answer(answer, request, ended=False).well_formed
    assert check_answer(answer, Request("house", "green"), ended=True).texts_right is False
    early = [*answer[:1], pictures[1], *answer[2:]]  # the roof comes too soon
    assert check_answer(early, request, ended=True).pictures == (False, True, True)
    assert not check_answer(answer[:4], request, ended=True).well_formed
