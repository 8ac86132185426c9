"""Documents of the built-in world: three corpora without held-out pairs, and prompts about held-out pairs."""

from __future__ import annotations

import random
from collections.abc import Iterator

from jam.documents import Document, Image, Message, Part, Text
from jam.tutorials.scenes import Scene, random_scene
from jam.tutorials.texts import Request, caption, request_for, step_texts


def text_tutorials(seed: int, held_out: bool = False) -> Iterator[Document]:
    """Questions and answers without pictures, for the text parent; endless."""
    rng = random.Random(f"text {seed}")
    while True:
        scene = random_scene(rng, held_out)
        question = request_for(scene, rng).question(rng)
        answer = "\n".join(step_texts(scene, rng))
        yield Document(messages=[Message("user", [Text(question)]), Message("assistant", [Text(answer)])])


def captioned_pictures(seed: int, held_out: bool = False) -> Iterator[Document]:
    """Captions and their pictures, after any number of steps, for the image parent; endless."""
    rng = random.Random(f"captions {seed}")
    while True:
        scene = random_scene(rng, held_out)
        scene = scene.first(rng.randint(1, len(scene.parts)))
        yield Document(content=[Text(caption(scene, rng)), Image(pixels=scene.draw())])


def interleaved_tutorials(seed: int, held_out: bool = False) -> Iterator[Document]:
    """Questions, with a sentence and the picture so far for every step; endless."""
    rng = random.Random(f"interleaved {seed}")
    while True:
        scene = random_scene(rng, held_out)
        question = request_for(scene, rng).question(rng)
        answer: list[Part] = []
        for text, step in zip(step_texts(scene, rng), scene.steps(), strict=True):
            answer += [Text(text), Image(pixels=step.draw())]
        yield Document(messages=[Message("user", [Text(question)]), Message("assistant", answer)])


def held_out_prompts(count: int, seed: int = 0) -> list[tuple[str, Request]]:
    """Questions about pairs of thing and colour that no corpus has."""
    rng = random.Random(f"prompts {seed}")
    prompts = []
    for _ in range(count):
        request = request_for(random_scene(rng, held_out=True), rng)
        prompts.append((request.question(rng), request))
    return prompts


def held_out_captions(count: int, seed: int = 0) -> list[tuple[str, Scene]]:
    """Captions of complete pictures with held-out pairs."""
    rng = random.Random(f"caption prompts {seed}")
    scenes = [random_scene(rng, held_out=True) for _ in range(count)]
    return [(caption(scene, rng), scene) for scene in scenes]
