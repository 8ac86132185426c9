"""What is shown in a terminal: text of documents, files and models says nothing to the terminal itself.

A title with an escape sequence could clear the screen, write over what stands there, or rename the window; a
bidirectional override shows another name than the file has.
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
    r"""The text with control characters, but line ends and tabs, as escapes: ``\x1b``, ``\u202e``."""
    return text.translate(SHOWN)


class Console(console.Console):
    """A console of rich that shows text as it is: without markup, and with control characters made `visible`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False} | options)

    def render_str(self, text: str, **options: Any) -> Any:
        return super().render_str(visible(text), **options)

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        """Segments of anything that is printed, a table or a bar too; those that steer the terminal are rich's own."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)
