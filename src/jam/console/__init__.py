"""A console that shows text of documents, files and models, but passes none of its control characters to the terminal.

An escape sequence in a title could clear or overwrite the screen or rename the window; a bidirectional override shows
another name than the file has.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich import console
from rich.segment import Segment

CONTROLS = (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
KEPT = "\n\t"
SHOWN = {code: chr(code).encode("unicode_escape").decode() for code in CONTROLS if chr(code) not in KEPT}


def visible(text: str) -> str:
    r"""The text with control characters as escapes (``\x1b``, ``\u202e``), except line ends and tabs."""
    return text.translate(SHOWN)


class Console(console.Console):
    """A console of rich without markup, whose text has control characters as escapes (see `visible`)."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False} | options)

    def render_str(self, text: str, **options: Any) -> Any:
        return super().render_str(visible(text), **options)

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        """Segments of text, tables and bars with control characters as escapes; control segments are rich's own."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)
