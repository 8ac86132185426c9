"""The exact checker's figures of a model: answers to held-out questions, pictures for held-out captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jam.api.model import Model
from jam.codec.text import encode_text
from jam.console import Console
from jam.console.progress import progress_bar
from jam.documents import Document
from jam.generation import GenerationSettings, Stream
from jam.generation import Request as GenerationRequest
from jam.tutorials.checker import Verdict, check_answer, picture_shows
from jam.tutorials.scenes import Scene
from jam.tutorials.texts import Request


@dataclass(frozen=True)
class Answers:
    """Documents and verdicts for a list of questions, at one guidance scale."""

    guidance_scale: float
    documents: list[Document]
    verdicts: list[Verdict]

    def summary(self) -> dict[str, float | list[float]]:
        """Shares of answers and of pictures; shares of pictures also by position."""
        pictures = [right for verdict in self.verdicts for right in verdict.pictures]
        positions = max((len(verdict.pictures) for verdict in self.verdicts), default=0)
        by_position = [
            share([verdict.pictures[position] for verdict in self.verdicts if len(verdict.pictures) > position])
            for position in range(positions)
        ]
        return {
            "guidance_scale": self.guidance_scale,
            "well_formed": share([verdict.well_formed for verdict in self.verdicts]),
            "texts_right": share([verdict.texts_right for verdict in self.verdicts]),
            "pictures_right": share(pictures),
            "first_pictures_right": by_position[0] if by_position else 0.0,
            "pictures_right_by_position": by_position,
            "answers_right": share([verdict.right for verdict in self.verdicts]),
        }


def share(values: Sequence[bool]) -> float:
    return round(sum(values) / len(values), 4) if values else 0.0


def answer_prompts(
    model: Model, prompts: Sequence[tuple[str, Request]], settings: GenerationSettings, console: Console
) -> Answers:
    """The answers to all questions, from one batch, with verdicts."""
    with progress_bar(console) as progress:
        task = progress.add_task(f"answering, guidance {settings.guidance_scale:g}", total=len(prompts), figures="")

        def on_progress(streams: Sequence[Stream]) -> None:
            done = sum(stream.is_finished for stream in streams)
            progress.update(task, completed=done, figures=f"{sum(stream.images for stream in streams)} pictures")

        documents = model.generate_all([question for question, _ in prompts], settings, on_progress)
    verdicts = [
        check_answer(document.answer, request, document.extra["finish_reason"] == "end")
        for document, (_, request) in zip(documents, prompts, strict=True)
    ]
    return Answers(settings.guidance_scale, documents, verdicts)


def pictures_from_captions(model: Model, captions: Sequence[tuple[str, Scene]], settings: GenerationSettings) -> float:
    """Share of captions for which the model draws exactly the right picture."""
    vocabulary, codec = model.codec.vocabulary, model.codec
    prompts = [
        [*vocabulary.begin_ids, *encode_text(codec.tokenizer, caption), vocabulary.break_id] for caption, _ in captions
    ]
    one_picture = replace(settings, max_new_tokens=codec.grammar.image_tokens + 1)
    verdicts = []
    generations = model.run(
        [GenerationRequest(prompt, one_picture.for_row(index)) for index, prompt in enumerate(prompts)]
    )
    for generation, (_, scene) in zip(generations, captions, strict=True):
        document = codec.decode([*generation.prompt_ids, *generation.new_ids[: codec.grammar.image_tokens]])
        verdicts.append(picture_shows(document.images[0].load(), scene))
    return share(verdicts)
