"""Documents of text and pictures in order, perhaps with gaps, and their HTML and Markdown."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from jam.documents.markdown import as_text, in_one_line
from jam.documents.pictures import Image, data_uri, png_bytes
from jam.files import as_path, replacing, write_text

SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass
class Text:
    """A text. Raises ValueError for half a surrogate pair, which JSON may contain and no tokenizer reads."""

    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise ValueError(f"a text is {self.text!r:.80}; it must be a string")
        if broken := SURROGATE.search(self.text):
            around = self.text[max(0, broken.start() - 20) : broken.end() + 20]
            raise ValueError(f"character {broken.start()} of a text is half a surrogate pair ({around!a}); remove it")


@dataclass
class Gap:
    """A place in a document that a model fills from both sides (`jam fill`)."""

    modality: Literal["text", "image"]

    def __post_init__(self) -> None:
        if self.modality not in ("text", "image"):
            raise ValueError(f'a gap is of the modality {self.modality!r:.80}; it must be "text" or "image"')


Part = Text | Image | Gap


@dataclass
class Message:
    """One turn of a conversation. `role`: "user", "assistant" or "system"."""

    role: str
    content: list[Part]


@dataclass
class Document:
    """Text and pictures in order (`content`), or the turns of a conversation (`messages`), but not both.

    `extra` has the other keys of the JSON line (id, source, license, author, ...) and, for a generated document, facts
    of its generation (`finish_reason`, counts). `where` is the document's file and line, for messages.
    """

    content: list[Part] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    where: str = ""

    def __post_init__(self) -> None:
        if self.content and self.messages:
            raise ValueError("a document has either content or messages, not both")
        if not isinstance(self.messages, list | tuple) or not all(isinstance(turn, Message) for turn in self.messages):
            raise ValueError(f"{self.where}messages are {self.messages!r:.80}; give a list of Message")
        for content in (self.content, *(message.content for message in self.messages)):
            require_parts(content, f"{self.where}content")

    @property
    def parts(self) -> list[Part]:
        """All parts in order, turns joined."""
        return self.content or [part for message in self.messages for part in message.content]

    @property
    def texts(self) -> list[str]:
        return [part.text for part in self.parts if isinstance(part, Text)]

    @property
    def images(self) -> list[Image]:
        return [part for part in self.parts if isinstance(part, Image)]

    @property
    def gaps(self) -> list[Gap]:
        return [part for part in self.parts if isinstance(part, Gap)]

    @property
    def answer(self) -> list[Part]:
        """All content; of messages, the parts of the last turn if the turn is the assistant's, otherwise none."""
        if not self.messages:
            return self.content
        return self.messages[-1].content if self.messages[-1].role == "assistant" else []

    def save(self, path: str | Path) -> Path:
        """Write an HTML page (``.html``, pictures inside) or Markdown (``.md``, pictures in a folder beside the file).

        The page and the folder are replaced completely or not at all.
        """
        path = as_path(path, "the page of a document")
        if path.suffix == ".html":
            write_text(path, to_html(self))
        elif path.suffix == ".md":
            images = path.with_name(path.stem + "_images")
            text, pictures = _markdown(self, images.name)
            with replacing(path) as partial:
                partial.write_text(text, encoding="utf-8")
                _write_pictures(images, pictures)
        else:
            raise ValueError(f"{path}: a document is saved as .html or .md, not as {path.suffix or 'no suffix'!r}")
        return path


def require_parts(parts: Any, what: str) -> None:
    """Raises ValueError for anything but a list of parts; `what` names the list."""
    wrong = [parts] if not isinstance(parts, list | tuple) else [part for part in parts if not isinstance(part, Part)]
    if wrong:
        raise ValueError(f"{what} has {wrong[0]!r:.80}; give a list of Text, Image and Gap")


def ending(document: Document) -> str:
    """Why a generated document ended ("max_new_tokens, within a sentence"), or "" for other documents."""
    reason = document.extra.get("finish_reason")
    return f"{reason}{', within a sentence' if document.extra.get('is_cut') else ''}" if reason else ""


def _told(document: Document) -> str:
    """Facts of a document's generation, for its page."""
    said = {"finished": ending(document), "asked by": document.extra.get("template")}
    return "; ".join(f"{what}: {value}" for what, value in said.items() if value)


def to_markdown(document: Document, images: Path) -> str:
    """Markdown that shows texts literally, and whose pictures are written into the folder `images`."""
    text, pictures = _markdown(document, images.name)
    _write_pictures(images, pictures)
    return text


def _markdown(document: Document, folder: str) -> tuple[str, dict[str, bytes]]:
    """The Markdown, and the pictures by their names in the folder `folder`."""
    blocks: list[str] = []
    pictures: dict[str, bytes] = {}
    for role, part in _shown(document):
        if isinstance(part, Text):
            text = as_text(part.text.strip())
            blocks.append(f"## {text}" if role == "user" else text)
        elif isinstance(part, Image):
            name = f"{len(pictures) + 1:02d}.png"
            pictures[name] = png_bytes(part.load())
            blocks.append(f"![]({quote(folder)}/{name})")
    if told := _told(document):
        blocks.append(f"*{in_one_line(told)}*")
    return "\n\n".join(blocks) + "\n", pictures


def _write_pictures(images: Path, pictures: dict[str, bytes]) -> None:
    """Write all pictures beside the folder `images`, then move them into it; other files there stay."""
    if not pictures:
        return
    images.parent.mkdir(parents=True, exist_ok=True)
    with replacing(images) as folder:
        folder.mkdir()
        for name, content in pictures.items():
            (folder / name).write_bytes(content)
        if images.is_dir():
            for name in pictures:
                os.replace(folder / name, images / name)
            folder.rmdir()


PAGE_STYLE = """
:root { color-scheme: light dark; }
body { font: 17px/1.6 system-ui, sans-serif; max-width: 46rem; margin: 3rem auto; padding: 0 1rem; }
article { margin: 0 0 3rem; }
h2 { font-size: 1.25rem; line-height: 1.35; }
img { display: block; width: 16rem; max-width: 100%; border-radius: .5rem; border: 1px solid #8884; background: #fff; }
img.pixelated { image-rendering: pixelated; }
p { white-space: pre-wrap; margin: 1.2rem 0 .6rem; }
footer { color: #888; font-size: .85rem; }
"""


def to_html(document: Document, title: str = "An illustrated document") -> str:
    """An HTML page that needs no other files."""
    return page(title, article(document))


def page(title: str, body: str, style: str = "") -> str:
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{PAGE_STYLE}{style}</style></head>'
        f"<body>\n{body}\n</body></html>\n"
    )


def article(document: Document) -> str:
    """The document as an HTML ``<article>``: questions as headings, texts as paragraphs, pictures inline."""
    lines = ["<article>"]
    for role, part in _shown(document):
        if isinstance(part, Text):
            tag = "h2" if role == "user" else "p"
            lines.append(f"<{tag}>{html.escape(part.text.strip())}</{tag}>")
        elif isinstance(part, Image):
            picture = part.load()
            small = ' class="pixelated"' if max(picture.size) <= 128 else ""
            lines.append(f'<img{small} alt="" src="{data_uri(picture)}">')
    if told := _told(document):
        lines.append(f"<footer>{html.escape(told)}</footer>")
    return "\n".join([*lines, "</article>"])


def _shown(document: Document) -> Iterator[tuple[str, Part]]:
    """Parts that a page shows (all but empty texts and gaps), with the role of their turn."""
    for turn in document.messages or [Message("assistant", document.content)]:
        for part in turn.content:
            if isinstance(part, Image) or (isinstance(part, Text) and part.text.strip()):
                yield turn.role, part
