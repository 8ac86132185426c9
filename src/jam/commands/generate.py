"""`jam generate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from jsonargparse import Namespace

from jam.api.model import Model
from jam.commands.arguments import Parser, add_check, add_placement, add_speed, make_parser
from jam.commands.files import require_folder_of
from jam.commands.settings import add_settings, chosen_settings, load_chosen
from jam.console import Console, visible
from jam.console.progress import progress_bar
from jam.documents import Document, Image, Message, Text, ending
from jam.generation import Finished, GenerationSettings, ImageDone, ImageProgress, ImageStarted, Stream, TextPiece

EXAMPLES = """
jam generate runs/instruct/model "How do I draw a red house?" --out page.html
jam generate model "How do I draw a red house?" --out page.md --guidance-scale 3.5 --top-p 0.9 --seed 1
jam generate model "How do I draw a red house?" --begin "First" --min-images 3 --max-images 3
"""
PICTURE = "[picture: give --out page.html to see it]"


def parser() -> Parser:
    parser = make_parser("generate", "Answer questions with illustrated documents.", EXAMPLES)
    parser.add_argument("model", type=Path, help="model folder")
    parser.add_argument("prompt", nargs="+", help="one question, or several for one page")
    page = "page to write or replace: .html or .md; default: text on stdout"
    parser.add_argument("--out", type=Path | None, default=None, help=page)
    parser.add_argument("--begin", type=str, default="", help="a text that every answer begins with; default: none")
    help = "what the conversation begins with, such as how to answer; default: what the model's template has"
    parser.add_argument("--system", type=str | None, default=None, help=help)
    add_settings(parser)
    add_placement(parser, device_map=True)
    add_check(parser)
    add_speed(parser)
    return parser


def run(settings: Namespace) -> None:
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    if settings.out is not None:
        check_page(settings.out)
    chosen = chosen_settings(settings)
    GenerationSettings(**chosen)  # raises for a mistake before the model is loaded
    model = load_chosen(settings)
    if model.manifest.stage == "fused" and model.codec.vocabulary.layout is None:
        console.print(
            f"note: {settings.model} was fused and never aligned: it writes no <break>, so it begins no picture; "
            "align it with `jam train recipes/align.yaml`",
            markup=False,
        )
    merged = replace(model.settings, **chosen)
    prompts = [as_question(prompt, settings.system) for prompt in settings.prompt]
    if len(prompts) == 1:
        documents = [live(model, prompts[0], merged, settings.begin, console, shown=settings.out is None)]
    else:
        documents = answer(model, prompts, merged, settings.begin, console)
        for document in documents if settings.out is None else ():
            show(document)
    for document in documents:
        extra = document.extra
        console.print(f"{extra['tokens']} tokens, {extra['images']} pictures, finished: {ending(document)}")
    if settings.out is not None:
        page = Document(messages=[message for document in documents for message in document.messages])
        page.extra = {"finish_reason": "; ".join(map(ending, documents)), "template": model.codec.template.name}
        page.save(settings.out)
        console.print(f"{settings.out}: the answer", markup=False)


def as_question(prompt: str, system: str | None) -> Document:
    """A question as a document, after the system message, if any."""
    turns = [Message("system", [Text(system)])] if system else []
    return Document(messages=[*turns, Message("user", [Text(prompt)])])


def check_page(path: Path) -> None:
    """Raises ValueError unless `path` can be a page."""
    if path.suffix not in (".html", ".md"):
        raise ValueError(f"--out {path}: the page must end in .html or .md")
    require_folder_of(path, "--out")


def answer(
    model: Model, prompts: list[Document], settings: GenerationSettings, begin: str, console: Console
) -> list[Document]:
    """The answers to all questions, from one batch, with a bar that counts tokens and pictures."""
    with progress_bar(console, transient=True) as progress:
        task = progress.add_task("writing", total=None, figures="")

        def on_progress(streams: Sequence[Stream]) -> None:
            tokens, images = (sum(counts) for counts in zip(*((s.tokens, s.images) for s in streams), strict=True))
            progress.update(task, completed=tokens, figures=f"{images} pictures")

        return model.generate_all(prompts, settings, on_progress, begin)


def live(
    model: Model, prompt: Document, settings: GenerationSettings, begin: str, console: Console, shown: bool
) -> Document:
    """The answer to one question, with a bar for every picture; with `shown`, stdout has the text as it is written."""

    def say(text: str, end: str = "") -> None:
        if shown:
            print(visible(text), end=end, flush=True)

    events = model.stream(prompt, begin, **asdict(settings))
    say("\n".join(prompt.texts), "\n")
    say(begin)
    try:
        with progress_bar(console, transient=True) as progress:
            for event in events:
                match event:
                    case TextPiece():
                        say(event.text)
                    case ImageStarted():
                        task = progress.add_task(f"picture {event.index + 1}", total=None, figures="")
                    case ImageProgress():
                        progress.update(task, completed=event.done, total=event.total)
                    case ImageDone():
                        progress.remove_task(task)
                        say(f"\n{PICTURE}\n")
                    case Finished(document=Document() as document):
                        return document
    finally:
        say("", "\n")  # so that the next message, even an error, begins a line
    raise AssertionError("a stream ends with Finished")


def show(document: Document) -> None:
    """Print question and answer on stdout, with a note for each picture."""
    for part in document.parts:
        if isinstance(part, Text):
            print(visible(part.text.strip()))
        elif isinstance(part, Image):
            print(PICTURE)
