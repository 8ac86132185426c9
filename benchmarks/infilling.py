"""Gaps in tutorials of the built-in world, filled by a model of `jam demo --long` and judged by the exact checker.

Of each of 100 tutorials about pairs of thing and colour that no training saw, one picture is taken out of the middle,
and in another trial one sentence; both are filled from what stands on both sides. A picture is right if it shows what
the sentences before it say, exactly. A sentence is right if the texts with it lead to the same scene, step by step, as
with the one that was taken out (other words are right, another part or colour is not).

python benchmarks/infilling.py jam-demo-long/model
"""

from __future__ import annotations

import random
import time
from argparse import ArgumentParser
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from jam.api.loading import load
from jam.documents import Document, Gap, Image, Message, Text
from jam.generation import GenerationSettings, settings_to_fill
from jam.tutorials.checker import picture_shows
from jam.tutorials.corpora import interleaved_tutorials
from jam.tutorials.texts import read_steps

SEED = 2_000_003  # of no training and no validation


def with_gap(tutorial: Document, place: int) -> Document:
    """The tutorial with a gap instead of a part of its answer."""
    question, answer = tutorial.messages
    parts = list(answer.content)
    parts[place] = Gap("image" if isinstance(parts[place], Image) else "text")
    return Document(messages=[question, Message("assistant", parts)])


def picture_is_right(original: Document, filled: Document, place: int) -> bool:
    scene = read_steps([part.text for part in original.answer[:place] if isinstance(part, Text)])
    picture = filled.answer[place]
    return scene is not None and isinstance(picture, Image) and picture_shows(picture.load(), scene)


def sentence_is_right(original: Document, filled: Document, place: int) -> bool:
    texts, others = ([part.text for part in one.answer if isinstance(part, Text)] for one in (original, filled))
    return all(read_steps(others[: count + 1]) == read_steps(texts[: count + 1]) for count in range(len(texts)))


def measure(
    what: str,
    fill: Callable[[list[Document]], list[Document]],
    right: Callable[[Document, Document, int], bool],
    tutorials: list[Document],
    places: list[int],
) -> None:
    """Print the share that is right, in all and by step."""
    started = time.perf_counter()
    done = fill([with_gap(tutorial, place) for tutorial, place in zip(tutorials, places, strict=True)])
    seconds = time.perf_counter() - started
    verdicts = [right(*trial) for trial in zip(tutorials, done, places, strict=True)]
    steps: dict[int, list[bool]] = {}
    for place, verdict in zip(places, verdicts, strict=True):
        steps.setdefault(place // 2 + 1, []).append(verdict)
    by_step = ", ".join(f"{sum(steps[step])} of {len(steps[step])} in step {step}" for step in sorted(steps))
    print(f"{what}: {sum(verdicts) / len(verdicts):.0%} of {len(verdicts)} right ({by_step}); {seconds:.1f} s")


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path, help="model folder of `jam demo --long`")
    parser.add_argument("--tutorials", type=int, default=100)
    parser.add_argument("--temperature", type=float, help="of texts; default: the model's")
    parser.add_argument("--image-temperature", type=float, help="default: the model's")
    parser.add_argument("--guidance-scale", type=float, help="default: 1")
    arguments = parser.parse_args()
    model = load(arguments.model, device="cpu")
    names = ("temperature", "image_temperature", "guidance_scale")
    chosen = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    settings: GenerationSettings = settings_to_fill(model.settings, **chosen)
    tutorials = list(islice(interleaved_tutorials(SEED, held_out=True), arguments.tutorials))
    rng = random.Random(SEED)
    pictures = [rng.randrange(1, len(tutorial.answer) - 1, 2) for tutorial in tutorials]  # but for the last part
    sentences = [rng.randrange(2, len(tutorial.answer), 2) for tutorial in tutorials]  # but for the first part

    def fill(documents: list[Document]) -> list[Document]:
        return model.fill_all(documents, settings)

    measure("pictures", fill, picture_is_right, tutorials, pictures)
    measure("sentences", fill, sentence_is_right, tutorials, sentences)


if __name__ == "__main__":
    main()
