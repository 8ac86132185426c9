"""What a model is asked: settings, prompts, documents with gaps."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

from fuzz.mutations import ODD, odd
from fuzz.targets import Case, Target
from jam.api.model import Model
from jam.documents import Document, Gap, Image, Message, Text
from jam.generation import GenerationSettings
from support import tiny

TEXTS = ("", " ", "a", "How do I draw it?", "\0", "</s>", "<image>", "x" * 300, "é" * 40, "\n\n")
LIKELY: dict[str, tuple[Any, ...]] = {
    "min_images": (0, 1, 2, 9),
    "max_images": (0, 1, 2),
    "temperature": (0, 0.5, 1e9, 1e-9),
    "top_p": (1, 1e-9, 0.5),
    "top_k": (0, 1, 10**9),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (1, 1e9, 1e-9),
    "guidance_scale": (0, 1, 3, 1e9),
    "guidance_end": (0, 1, 2),
    "guidance_schedule": ("linear", "cosine"),
    "image_grid": ((2, 2), (1, 4), (9, 9), [1, 1]),
    "stop": (("a",), ["é"], ("",)),
    "seed": (0, 2**32 - 1),
}


class Requests(Target):
    name = "requests"

    def make(self, folder: Path) -> None:
        pass

    @cached_property
    def model(self) -> Model:
        made = tiny.model(self.base / "model", context=48)
        made.joint.eval()
        return made

    def case(self, rng: random.Random, place: Path) -> Case:
        settings: dict[str, Any] = {"max_new_tokens": rng.choice((1, 4, 12))}
        names = [field.name for field in fields(GenerationSettings)]
        for name in rng.sample(names, rng.choice((0, 1, 2, 4))):
            settings[name] = rng.choice(LIKELY[name]) if name in LIKELY and rng.random() < 0.7 else odd(rng)
        kind = rng.choice(("generate", "stream", "fill", "chat", "wrong"))
        build = random.Random(rng.random())
        return Case(f"{kind} {settings!r:.300}", lambda: self.ask(kind, settings, build))

    def ask(self, kind: str, settings: dict[str, Any], rng: random.Random) -> None:
        match kind:
            case "generate":
                prompts = [document(rng, gaps=rng.random() < 0.1) for _ in range(rng.choice((1, 1, 2)))]
                self.model.generate(rng.choice((prompts, prompts[0], rng.choice(TEXTS))), **settings)
            case "stream":
                list(self.model.stream(rng.choice((rng.choice(TEXTS), document(rng))), **settings))
            case "fill":
                self.model.fill(document(rng, gaps=rng.random() < 0.9), **settings)
            case "chat":
                chat = self.model.chat(rng.choice((None, "", "be brief")), rng.choice((None, 48, 8, 0, -1)), **settings)
                for _ in range(2):
                    chat.send(rng.choice(TEXTS))
            case "wrong":
                call = rng.choice((self.model.generate, self.model.fill, self.model.stream, self.model.chat().send))
                found = call(rng.choice((*ODD, [Document(), None], {1: 2})), **settings)  # type: ignore[operator]
                list(found) if isinstance(found, Iterator) else found


def document(rng: random.Random, gaps: bool = False) -> Document:
    """Content, or a conversation, of a few parts that fit or do not."""
    if rng.random() < 0.5:
        return Document(content=parts(rng, gaps))
    roles = rng.choice(
        (["user"], ["user", "assistant"], ["system", "user"], ["assistant"], ["user", "assistant"] * 2, ["x"])
    )
    return Document(messages=[Message(role, parts(rng, gaps)) for role in roles])


def parts(rng: random.Random, gaps: bool) -> list[Any]:
    def part() -> Any:
        kind = rng.randrange(6 if gaps else 4)
        if kind == 0:
            codes = [rng.randrange(tiny.CODES) for _ in range(rng.choice((tiny.IMAGE_TOKENS,) * 5 + (0, 3)))]
            return Image(codes=codes, grid=rng.choice((None, None, None, (2, 2), (1, 4), (3, 3))))
        if kind == 1:
            return Image(pixels=tiny.picture(1, (4, 4)))
        return Text(rng.choice(TEXTS)) if kind < 4 else Gap(rng.choice(("text", "image")))  # type: ignore[arg-type]

    return [part() for _ in range(rng.choice((0, 1, 2, 3)))]
