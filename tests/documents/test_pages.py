"""Pages show what a document says as text: nothing that it has of HTML or Markdown loads, links or runs anything."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from jam.documents import Document, Image, Message, Text, to_html
from jam.documents.markdown import as_text
from support import tiny

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=https://x/a.png onerror=alert(1)>",
    "a <b>b</b> < c &lt;script&gt; &#60;b> &amp; & d",
    "<!-- a comment -->",
    "<!doctype html>",
    "<?php x ?>",
    "<https://x/> <javascript:alert(1)> <a@b.c>",
    "![a](https://x/a.png)",
    "![a][b]\n\n[b]: https://x/a.png",
    "[a](javascript:alert(1))",
    "[a]\n\n[a]: javascript:alert(1) 'title'",
    "\\[a](https://x) \\![a](https://x) \\<b> \\\\<b>",
    "[![a](https://x/a.png)](https://x)",
    "```\ncode\n```",
    "~~~ html\n<b>\n~~~",
    "`code` ``co`de``",
    "    indented",
    "\tindented",
    "a\n\n    indented\n\n\tand so\n\n     \t  and so",
    "# heading",
    "   ### heading ###",
    "a\n# heading\nb",
    "heading\n===",
    "heading\n---",
    "heading\n--- \t",
    "> heading\n> ---",
    "- heading\n  ---",
    "- # heading",
    "1. > - # heading",
    "> # heading",
    "> ```\n> code",
    "-     code in a list",
    "- a\n\n      code in a list",
    "#\theading",
    "#",
    "a\r# heading\r\n## heading",
    "a\u2028# b\u0085# c\x0b# d\x0c# e",
    "*a* **b** _c_ __d__ ***e*** a*b*c 2*3*4",
    "snake_case __init__ _x_\u00e4",
    "line\\\nbreak",
    "https://x.y/z www.x.y a@b.c mailto:a@b.c",
    "[^1]\n\n[^1]: a footnote",
    "| a | b |\n|---|---|\n| <b> | [c](https://x) |",
    "* item\n+ item\n- item\n1. item\n2) item",
    "***\n___\n- - -",
]


def tokens(text: str) -> list[tuple[str, str]]:
    """Types and contents of all that a reader of Markdown makes of it."""
    markdown_it = pytest.importorskip("markdown_it")
    found: list[tuple[str, str]] = []
    for token in (
        markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").enable("strikethrough").parse(text)
    ):
        for one in [token, *(token.children or [])]:
            found.append((one.type, one.content))
    return found


HARMLESS = {"paragraph", "inline", "text", "softbreak", "bullet_list", "ordered_list", "list_item", "blockquote"}
HARMLESS |= {"hr", "table", "thead", "tbody", "tr", "th", "td"}


def kinds(text: str) -> set[str]:
    return {kind.removesuffix("_open").removesuffix("_close") for kind, _ in tokens(text)}


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_shows_texts(text: str) -> None:
    assert kinds(as_text(text)) <= HARMLESS
    for nested in (f"- {text}", f"> {text}", f"a\n{text}", f"{text}\n---", f"1. {text}\n\n   {text}"):
        assert kinds(as_text(nested)) <= HARMLESS, nested


@pytest.mark.parametrize("text", HOSTILE[:8] + HOSTILE[9:10] + HOSTILE[15:16] + HOSTILE[37:39] + HOSTILE[40:41])
def test_what_is_shown_is_what_was_written(text: str) -> None:
    assert "".join(content for kind, content in tokens(as_text(text)) if kind == "text") == text


def test_ordinary_texts_stay_as_they_are() -> None:
    for text in (
        "Draw a house, 3.5 cm wide (or 2-3 cm). It costs $5 - or 10%!",
        'One & two; R&D; a_b; it\'s "so": yes! No? C# too.',
        "1. First, the roof.\n2. Then the door.\n\n- red\n- blue",
        "Ünïcödé 😀 …",
    ):
        assert as_text(text) == text.replace("R&D", "R\\&D")


def test_long_lines_take_no_time() -> None:
    for mark in ("-", "#", "> ", "1.", " ", "_", "*", "`", "[", "&a"):
        assert len(as_text(mark * 300_000 + "x")) <= 4 * len(mark) * 300_000


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.shown = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.shown += data


@pytest.fixture
def document() -> Document:
    """Hostile texts in a question, an answer, and what is known about it."""
    parts: list[Text | Image] = [Text(text) for text in HOSTILE]
    parts.insert(3, Image(pixels=tiny.picture(0)))
    told = {"finish_reason": "*<b>*\n# end ![a](https://x)", "template": "</footer><script>`[a](b)"}
    questions = [Message(role, [Text(text)]) for text in HOSTILE for role in ("user", "system")]
    return Document(messages=[*questions, Message("assistant", list(parts))], extra=told)


def test_pages_of_markdown(document: Document, tmp_path: Path) -> None:
    page = document.save(tmp_path / "a (page) <b>.md").read_text()
    assert kinds(page) <= HARMLESS | {"heading", "image", "em"}
    found = tokens(page)
    assert sum(kind == "image" for kind, _ in found) == 1
    assert page.count("![](") == 1 and "![](a%20%28page%29%20%3Cb%3E_images/01.png)" in page
    headings = sum(kind == "heading_open" for kind, _ in found)
    assert headings == len(HOSTILE)  # one for a question


def test_pages_of_html(document: Document) -> None:
    tags = Tags()
    tags.feed(to_html(document, "</title><script>alert(1)</script>"))
    assert {tag for tag, _ in tags.found} <= {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "article",
        "h2",
        "p",
        "img",
        "footer",
    }
    pictures = [attributes["src"] or "" for tag, attributes in tags.found if tag == "img"]
    assert len(pictures) == 1 and pictures[0].startswith("data:image/png;base64,")
    for text in HOSTILE:
        assert text.strip() in tags.shown.replace("\r\n", "\n") or "\r" in text
