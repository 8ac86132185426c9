"""The one type that goes in and comes out everywhere: a document of text and pictures in order, perhaps with gaps.

JSON lines (README, "Documents") in and out, Markdown and HTML out. A picture is a file, a data URI, pixels or the codes
of an image tokenizer; pixels are read only when they are asked for.
"""

from __future__ import annotations

import base64
import html
import io
import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from PIL import Image as PILImage

DATA_URI = "data:image/"
MIN_SIDE, MAX_PIXELS = 2, 2**26  # of a picture that is read: one pixel shows nothing, and a bomb fills the memory
JPEG = b"\xff\xd8"  # how such a file begins


@dataclass
class Text:
    text: str


@dataclass
class Image:
    """A picture: pixels, or where they are (`path`: a file or a data URI), or image-tokenizer `codes`, row by row.

    `grid`: height and width of the codes; None: as of all pictures of the model. `data` is the content of a picture's
    file, where it lies in a table or an archive; `path` is its name there then.
    """

    path: str | None = None
    pixels: PILImage.Image | None = None
    codes: list[int] | None = None
    grid: tuple[int, int] | None = None
    where: str = ""  # file and line of the document, for messages
    data: bytes | None = field(default=None, repr=False)

    def load(self) -> PILImage.Image:
        """The picture as RGB pixels, on white where it is transparent.

        Raises:
            ValueError: the file is missing, truncated or no picture.
        """
        if self.pixels is not None:
            self._check_size(self.pixels)
            return to_rgb(self.pixels)
        if self.path is None and self.data is None:
            raise ValueError(f"{self.where}this picture has codes only; decode them with the model's image tokenizer")
        try:
            with (
                warnings.catch_warnings(action="ignore", category=PILImage.DecompressionBombWarning),
                PILImage.open(self._file()) as picture,
            ):
                self._check_size(picture)
                return to_rgb(picture)
        except FileNotFoundError:
            raise ValueError(f"{self.where}picture {self._name} does not exist") from None
        except PILImage.DecompressionBombError:
            raise ValueError(f"{self.where}picture {self._name} is too large; {_SIZES}") from None
        except PictureSizeError:
            raise
        except Exception as error:  # decoders of damaged files raise what they like
            raise ValueError(f"{self.where}picture {self._name} cannot be read ({error}); is it truncated?") from None

    @property
    def _name(self) -> str:
        if self.path is None:
            return "in memory"
        return self.path if not self.path.startswith(DATA_URI) else "in the data URI"

    def _check_size(self, picture: PILImage.Image) -> None:
        width, height = picture.size
        if min(width, height) < MIN_SIDE or width * height > MAX_PIXELS:
            raise PictureSizeError(f"{self.where}picture {self._name} has {width} x {height} pixels; {_SIZES}")

    def _file(self) -> Any:
        """What `PIL` opens."""
        if self.data is not None:
            return io.BytesIO(self.data)
        assert self.path is not None
        if self.path.startswith(DATA_URI):
            return io.BytesIO(base64.b64decode(self.path.partition(",")[2], validate=True))
        return self.path


def to_rgb(picture: PILImage.Image) -> PILImage.Image:
    """RGB pixels; what is transparent shows white."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    return PILImage.alpha_composite(PILImage.new("RGBA", layer.size, "white"), layer).convert("RGB")


class PictureSizeError(ValueError):
    """A picture is too small to show anything, or too large to be read."""


_SIZES = f"a side must have {MIN_SIDE} or more, and the picture {MAX_PIXELS // 2**20} million or fewer"


@dataclass
class Gap:
    """A place in a document that a model fills, from what stands on both sides (`jam fill`)."""

    modality: Literal["text", "image"]


Part = Text | Image | Gap


@dataclass
class Message:
    """One turn of a conversation. `role`: "user", "assistant" or "system"."""

    role: str
    content: list[Part]


@dataclass
class Document:
    """Text and pictures in order (`content`), or the turns of a conversation (`messages`); one of the two is filled.

    `extra` keeps the other keys of the JSON line (id, source, license, author, ...) and, for a generated document, how
    it came about (`finish_reason`, counts). `where` is the file and line it was read from, for messages.
    """

    content: list[Part] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    where: str = ""

    def __post_init__(self) -> None:
        if self.content and self.messages:
            raise ValueError("a document has either content or messages, not both")

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
        """The parts of the last turn if it is the assistant's, else all content."""
        if not self.messages:
            return self.content
        return self.messages[-1].content if self.messages[-1].role == "assistant" else []

    def save(self, path: str | Path) -> Path:
        """Write an HTML page (``.html``, pictures inside) or Markdown (``.md``, pictures in a folder beside it)."""
        path = Path(path)
        if path.suffix == ".html":
            path.write_text(to_html(self), encoding="utf-8")
        elif path.suffix == ".md":
            path.write_text(to_markdown(self, path.with_name(path.stem + "_images")), encoding="utf-8")
        else:
            raise ValueError(f"{path}: a document is saved as .html or .md, not as {path.suffix or 'no suffix'!r}")
        return path


def read_documents(path: str | Path) -> Iterator[Document]:
    """Documents of a JSON-lines file, one by one. Raises ValueError that names file and line."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file of documents")
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield parse_document(line, path.parent, f"{path}:{number}: ")


def parse_document(line: str | bytes, folder: Path = Path(), where: str = "") -> Document:
    """One JSON line to a `Document`; paths of pictures are relative to `folder`."""
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{where}not valid JSON: {error}") from None
    return parse_record(record, folder, where)


def parse_record(record: Any, folder: Path = Path(), where: str = "") -> Document:
    """An object with content or messages to a `Document`; a part may be a `Text` or an `Image` already."""
    if not isinstance(record, dict) or ("content" in record) == ("messages" in record):
        raise ValueError(f'{where}a document is an object with either "content" or "messages"')
    extra = {key: value for key, value in record.items() if key not in ("content", "messages")}
    if "content" in record:
        return Document(content=_parse_parts(record["content"], folder, where), extra=extra, where=where)
    if not isinstance(record["messages"], list):
        raise ValueError(f'{where}"messages" must be a list; got {type(record["messages"]).__name__}')
    messages = []
    for message in record["messages"]:
        if not isinstance(message, dict) or message.get("role") not in ("user", "assistant", "system"):
            raise ValueError(f'{where}a message needs a "role" of "user", "assistant" or "system"; got {message!r:.80}')
        messages.append(Message(message["role"], _parse_parts(message.get("content"), folder, where)))
    return Document(messages=messages, extra=extra, where=where)


def _parse_parts(parts: Any, folder: Path, where: str) -> list[Part]:
    if isinstance(parts, str):
        return [Text(parts)]
    if not isinstance(parts, list):
        raise ValueError(f'{where}"content" must be a list of parts; got {type(parts).__name__}')
    parsed: list[Part] = []
    for part in parts:
        match part:
            case Text() | Image():
                parsed.append(part)
            case {"type": "text", "text": str(text)}:
                parsed.append(Text(text))
            case {"type": "image", "image": str(name)}:
                path = name if name.startswith(DATA_URI) else str(folder / name)
                parsed.append(Image(path=path, where=where))
            case {"type": "image", "codes": list(codes)} if all(type(code) is int for code in codes):
                parsed.append(Image(codes=codes, grid=_parse_grid(part, where), where=where))
            case {"type": "gap", "modality": "text" | "image" as modality}:
                parsed.append(Gap(modality))
            case _:
                raise ValueError(
                    f'{where}a part is {{"type": "text", "text": ...}}, {{"type": "image", "image" or "codes": ...}} '
                    f'or {{"type": "gap", "modality": "text" or "image"}}; got {part!r:.120}'
                )
    return parsed


def _parse_grid(part: dict[str, Any], where: str) -> tuple[int, int] | None:
    match part.get("grid"):
        case None:
            return None
        case [int(height), int(width)] if min(height, width) > 0:
            return height, width
        case grid:
            raise ValueError(f'{where}the "grid" of a picture is [height, width] in codes; got {grid!r:.80}')


def to_record(document: Document) -> dict[str, Any]:
    """The JSON-lines form; pictures with pixels become data URIs."""
    if document.messages:
        turns = [{"role": turn.role, "content": _to_records(turn.content)} for turn in document.messages]
        return {**document.extra, "messages": turns}
    return {**document.extra, "content": _to_records(document.content)}


def _to_records(parts: Sequence[Part]) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, Text):
            records.append({"type": "text", "text": part.text})
        elif isinstance(part, Gap):
            records.append({"type": "gap", "modality": part.modality})
        elif part.codes is not None and part.pixels is None and part.path is None:
            shape = {"grid": list(part.grid)} if part.grid is not None else {}
            records.append({"type": "image", "codes": part.codes, **shape})
        else:
            records.append({"type": "image", "image": _address(part)})
    return records


def _address(image: Image) -> str:
    """Where a picture is, or a data URI that holds it; a JPEG file stays one."""
    if image.data is not None and image.data.startswith(JPEG):
        return f"{DATA_URI}jpeg;base64,{base64.b64encode(image.data).decode()}"
    return image.path if image.path is not None and image.data is None else data_uri(image.load())


def write_documents(path: str | Path, documents: Iterable[Document]) -> None:
    """Write JSON lines."""
    with Path(path).open("w", encoding="utf-8") as lines:
        for document in documents:
            lines.write(json.dumps(to_record(document), ensure_ascii=False) + "\n")


def png_bytes(picture: PILImage.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def data_uri(picture: PILImage.Image) -> str:
    return f"{DATA_URI}png;base64,{base64.b64encode(png_bytes(picture)).decode()}"


def to_markdown(document: Document, images: Path) -> str:
    """Markdown text; pictures are written into the folder `images`."""
    blocks: list[str] = []
    count = 0
    for role, part in _shown(document):
        if isinstance(part, Text):
            blocks.append(f"## {part.text.strip()}" if role == "user" else part.text.strip())
        elif isinstance(part, Image):
            count += 1
            images.mkdir(parents=True, exist_ok=True)
            (images / f"{count:02d}.png").write_bytes(png_bytes(part.load()))
            blocks.append(f"![]({images.name}/{count:02d}.png)")
    return "\n\n".join(blocks) + "\n"


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
    """A page that needs nothing beside it."""
    return page(title, article(document))


def page(title: str, body: str, style: str = "") -> str:
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{PAGE_STYLE}{style}</style></head>'
        f"<body>\n{body}\n</body></html>\n"
    )


def article(document: Document) -> str:
    """The document as one HTML ``<article>``: questions as headings, texts as paragraphs, pictures inline."""
    lines = ["<article>"]
    for role, part in _shown(document):
        if isinstance(part, Text):
            tag = "h2" if role == "user" else "p"
            lines.append(f"<{tag}>{html.escape(part.text.strip())}</{tag}>")
        elif isinstance(part, Image):
            picture = part.load()
            small = ' class="pixelated"' if max(picture.size) <= 128 else ""
            lines.append(f'<img{small} alt="" src="{data_uri(picture)}">')
    if reason := document.extra.get("finish_reason"):
        lines.append(f"<footer>finished: {html.escape(str(reason))}</footer>")
    return "\n".join([*lines, "</article>"])


def _shown(document: Document) -> Iterator[tuple[str, Part]]:
    """Parts that a page shows, with the role of their turn: all but empty texts and gaps."""
    for turn in document.messages or [Message("assistant", document.content)]:
        for part in turn.content:
            if isinstance(part, Image) or (isinstance(part, Text) and part.text.strip()):
                yield turn.role, part
