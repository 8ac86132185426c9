"""Text as Markdown that shows the text literally, without its tags, links, pictures, headings and code.

Lists, quotes and tables keep their effect, since they load and run nothing.
"""

from __future__ import annotations

import re

LINE_END = re.compile(r"\r\n?|\n")
# Characters that need a backslash: of tags, entities, links, pictures, code, emphasis, and GitHub's automatic links.
INLINE = re.compile(
    r"[\\`<\[*]|&(?=[#A-Za-z])|(?<![^\W_])_|_(?![^\W_])|(?<=www)\.|:(?=//)|(?<=\w)@(?=\w)", re.IGNORECASE
)
# Beginning of a line: spaces, and marks of quotes, lists, headings, code, and of the line under a heading.
HEAD = re.compile(r"[ \t\f\v>+\-0-9.)=#~]*")
MARKS = re.compile(r"[=#~]")
SPACE = re.compile(r"[ \t\f\v]+")


def as_text(text: str) -> str:
    """Markdown that shows `text`."""
    return "\n".join(map(_line, LINE_END.split(text)))


def in_one_line(text: str) -> str:
    """Markdown that shows `text` within a line, with spaces instead of line ends."""
    return INLINE.sub(_escaped, " ".join(text.split()))


def _line(line: str) -> str:
    found = HEAD.match(line)
    assert found is not None
    head, rest = found.group(), line[found.end() :]
    head = MARKS.sub(_escaped, SPACE.sub(" ", head.lstrip()))  # many spaces would begin code
    if not rest.strip():  # a line of marks alone makes a heading of the line above it
        head = head.replace("-", "\\-")
    return head + INLINE.sub(_escaped, rest)


def _escaped(found: re.Match[str]) -> str:
    return f"\\{found.group()}"
