"""The words of the built-in world: questions, captions and step sentences, and the reading of step sentences."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from jam.tutorials.scenes import Scene
from jam.tutorials.things import COLOURS, PART_NAMES, PLACES, SIZES, THINGS

FIRST = (
    "Start the {size} {thing} {place} with {part}.",
    "First draw {part} for a {size} {thing} {place}.",
    "Begin a {size} {thing} {place}: draw {part}.",
)
NEXT = ("Add {part}.", "Then draw {part}.", "Now paint {part}.", "Put in {part}.")
LAST = ("Finish with {part}.", "Finally add {part}.", "At last draw {part}.")
QUESTIONS = (
    "How do I draw {what}?",
    "How can I paint {what}?",
    "Show me how to draw {what}.",
    "Teach me to draw {what}.",
    "I want to draw {what}. How?",
)
CAPTIONS = (
    "A {size} {thing} {place} with {parts}.",
    "{parts} of a {size} {thing} {place}.",
    "A picture of a {size} {thing} {place}: {parts}.",
)


def with_article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def part_phrase(thing: str, part: str, colour: str) -> str:
    """A part in words: "a red roof", "red wheels"."""
    phrase = f"{colour} {part}"
    return phrase if THINGS[thing].part(part).plural else with_article(phrase)


def step_texts(scene: Scene, rng: random.Random) -> list[str]:
    """One sentence per step; the first sentence names thing, size and place."""
    texts = []
    last = len(THINGS[scene.thing].parts) - 1
    for index, (part, colour) in enumerate(scene.parts):
        templates = FIRST if index == 0 else LAST if index == last else NEXT
        texts.append(
            rng.choice(templates).format(
                size=scene.size,
                thing=scene.thing,
                place=PLACES[scene.place],
                part=part_phrase(scene.thing, part, colour),
            )
        )
    return texts


def caption(scene: Scene, rng: random.Random) -> str:
    """A description of the picture: half the time the step sentences, else all parts in one sentence."""
    if rng.random() < 0.5:
        return " ".join(step_texts(scene, rng))
    phrases = [part_phrase(scene.thing, part, colour) for part, colour in scene.parts]
    listed = phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"
    text = rng.choice(CAPTIONS).format(size=scene.size, thing=scene.thing, place=PLACES[scene.place], parts=listed)
    return text[0].upper() + text[1:]


@dataclass(frozen=True)
class Request:
    """The content of a question: a thing in a colour, and perhaps a size, a place and the colours of more parts."""

    thing: str
    colour: str
    size: str | None = None
    place: str | None = None
    accents: tuple[tuple[str, str], ...] = ()  # part, colour

    def question(self, rng: random.Random) -> str:
        what = f"{self.colour} {self.thing}"
        what = f"a {self.size} {what}" if self.size else with_article(what)
        if self.accents:
            what += f" with {' and '.join(part_phrase(self.thing, *accent) for accent in self.accents)}"
        if self.place:
            what += f" {PLACES[self.place]}"
        return rng.choice(QUESTIONS).format(what=what)

    def is_met_by(self, scene: Scene) -> bool:
        """True if the scene is complete and fits the request."""
        colours = dict(scene.parts)
        return (
            scene.thing == self.thing
            and scene.is_complete
            and colours[THINGS[self.thing].main] == self.colour
            and self.size in (None, scene.size)
            and self.place in (None, scene.place)
            and all(colours[part] == colour for part, colour in self.accents)
        )


def request_for(scene: Scene, rng: random.Random) -> Request:
    """A request that the scene meets."""
    main = THINGS[scene.thing].main
    colours = dict(scene.parts)
    accents = tuple((part, colour) for part, colour in scene.parts if part != main and rng.random() < 0.7)
    return Request(
        thing=scene.thing,
        colour=colours[main],
        size=scene.size if rng.random() < 0.5 else None,
        place=scene.place if rng.random() < 0.5 else None,
        accents=accents,
    )


def read_steps(texts: list[str]) -> Scene | None:
    """The scene after the step sentences, or None if they describe no scene.

    The first sentence must name exactly one thing, size and place; every sentence must name exactly one colour,
    directly before a new part of the thing.
    """
    if not texts:
        return None
    words = [re.findall(r"[a-z]+", text.lower()) for text in texts]
    things = [word for word in words[0] if word in THINGS]
    sizes = [word for word in words[0] if word in SIZES]
    places = [word for word in words[0] if word in PLACES]
    if not len(things) == len(sizes) == len(places) == 1:
        return None
    for later in words[1:]:
        if any(word in THINGS or word in SIZES or word in PLACES for word in later):
            return None
    known = {part.name for part in THINGS[things[0]].parts}
    parts: list[tuple[str, str]] = []
    for sentence in words:
        colours = [index for index, word in enumerate(sentence) if word in COLOURS]
        names = [index for index, word in enumerate(sentence) if word in PART_NAMES]
        if len(colours) != 1 or names != [colours[0] + 1] or sentence[names[0]] not in known:
            return None
        if any(name == sentence[names[0]] for name, _ in parts):
            return None
        parts.append((sentence[names[0]], sentence[colours[0]]))
    return Scene(things[0], sizes[0], places[0], tuple(parts))
