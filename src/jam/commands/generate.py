"""`jam generate`."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

from jsonargparse import Namespace
from rich.console import Console

from jam.commands.arguments import Parser, add_placement, make_parser
from jam.commands.files import require_folder_of
from jam.commands.progress import progress_bar
from jam.documents import Document, Image, Text
from jam.generation import GenerationSettings
from jam.model import Model, load

EXAMPLES = """
jam generate runs/instruct/model "How do I draw a red house?" --out page.html
jam generate model "How do I draw a red house?" --out page.md --guidance-scale 3.5 --top-p 0.9 --seed 1
"""


def parser() -> Parser:
    made = make_parser("generate", "Answer questions with illustrated documents.", EXAMPLES)
    made.add_argument("model", type=Path, help="model folder")
    made.add_argument("prompt", nargs="+", help="one question, or several for one page")
    page = "page to write or replace: .html or .md; default: text on stdout"
    made.add_argument("--out", type=Path | None, default=None, help=page)
    for field in fields(GenerationSettings):
        kind = {"max_images": int, "max_new_tokens": int, "seed": int}.get(field.name, float)
        made.add_argument(
            f"--{field.name}", type=kind | None, default=None, help=f"{HELP[field.name]}; default: the model's"
        )
    add_placement(made, device_map=True)
    return made


HELP = {
    "max_new_tokens": "most tokens to write; a picture that would not fit whole is not begun",
    "max_images": "most pictures to draw",
    "temperature": "divides the logits; 0 takes the most probable token",
    "top_p": "sample from the smallest set of tokens of at least this probability",
    "image_temperature": "temperature of image tokens",
    "image_top_p": "top-p of image tokens",
    "guidance_scale": "classifier-free guidance on image tokens; 1 is none",
    "seed": "the same seed gives the same document",
}


def run(settings: Namespace) -> None:
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    if settings.out is not None:
        if settings.out.suffix not in (".html", ".md"):
            raise ValueError(f"--out {settings.out}: the page must end in .html or .md")
        require_folder_of(settings.out, "--out")
    model = load(settings.model, settings.device, settings.dtype, settings.device_map)
    chosen = {
        field.name: value
        for field in fields(GenerationSettings)
        if (value := getattr(settings, field.name)) is not None
    }
    if model.manifest.stage == "fused":
        console.print(
            f"note: {settings.model} was fused and never aligned: it writes no <break>, so it begins no picture; "
            "align it with `jam train recipes/align.yaml`",
            markup=False,
        )
    documents = answer(model, settings.prompt, replace(model.settings, **chosen), console)
    page = Document(messages=[message for document in documents for message in document.messages])
    page.extra = {"finish_reason": ", ".join(str(document.extra["finish_reason"]) for document in documents)}
    if settings.out is None:
        for document in documents:
            show(document)
    else:
        page.save(settings.out)
    for document in documents:
        extra = document.extra
        console.print(f"{extra['tokens']} tokens, {extra['images']} pictures, finished: {extra['finish_reason']}")
    if settings.out is not None:
        console.print(f"{settings.out}: the answer", markup=False)


def answer(model: Model, prompts: list[str], settings: GenerationSettings, console: Console) -> list[Document]:
    """Generate with a bar that counts tokens and pictures."""
    with progress_bar(console, transient=True) as progress:
        task = progress.add_task("writing", total=None, figures="")

        def on_step(rows: list) -> None:  # type: ignore[type-arg]
            tokens = sum(len(row.new_ids) for row in rows)
            progress.update(task, completed=tokens, figures=f"{sum(row.images for row in rows)} pictures")

        return model.generate_all(prompts, settings, on_step)


def show(document: Document) -> None:
    """Question and answer on stdout; a picture is named, not shown."""
    for part in document.parts:
        if isinstance(part, Text):
            print(part.text.strip())
        elif isinstance(part, Image):
            print("[picture: give --out page.html to see it]")
