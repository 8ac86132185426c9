"""Text as Markdown that shows it as it is: what a model or a document wrote is no tag, link, picture, heading or code.

Lists, quotes and tables stay as they were written; nothing is loaded for them, and nothing runs.
"""

from __future__ import annotations

import re

LINE_END = re.compile(r"\r\n?|\n")
# A backslash before these: tags and entities, links and pictures, code, emphasis, and what GitHub makes a link of.
INLINE = re.compile(
    r"[\\`<\[*]|&(?=[#A-Za-z])|(?<![^\W_])_|_(?![^\W_])|(?<=www)\.|:(?=//)|(?<=\w)@(?=\w)", re.IGNORECASE
)
# What a line may begin with: spaces, marks of quotes and lists, of headings, of code, and of the line under a heading.
HEAD = re.compile(r"[ \t\f\v>+\-0-9.)=#~]*")
MARKS = re.compile(r"[=#~]")
SPACE = re.compile(r"[ \t\f\v]+")


def as_text(text: str) -> str:
    """Markdown that shows the text."""
    return "\n".join(map(_line, LINE_END.split(text)))


def in_one_line(text: str) -> str:
    """The same without line ends, for the inside of a line."""
    return INLINE.sub(_behind_backslash, " ".join(text.split()))


def _line(line: str) -> str:
    found = HEAD.match(line)
    assert found is not None
    head, rest = found.group(), line[found.end() :]
    head = MARKS.sub(_behind_backslash, SPACE.sub(" ", head.lstrip()))  # many spaces would begin code
    if not rest.strip():  # a line of marks alone makes a heading of the line above it
        head = head.replace("-", "\\-")
    return head + INLINE.sub(_behind_backslash, rest)


def _behind_backslash(found: re.Match[str]) -> str:
    return f"\\{found.group()}"
