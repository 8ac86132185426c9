"""Where the files of a document's pictures may lie: beside the document, or below a folder that its reader names.

Documents come from others. One that named any file of the disk would have it read, and shown on a page.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote

FILE_URL = "file://"
LONGEST_PATH = 4096  # bytes, as of Linux: no longer one is of a file
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # what ends a line among them
SHOWN = 120  # characters of a name in a message


class PicturePathError(ValueError):
    """A document names a picture that lies where none of its pictures may; `path` is where it was looked for."""

    path: str | None = None


def picture_path(name: str, folder: Path | None, allowed_media_path: Path | None = None, where: str = "") -> str:
    """The file of a picture that a document names.

    Args:
        name: relative to `folder`, absolute, or a ``file://`` URL.
        folder: that of the document's file; None: it lies in an archive, whose files are no files of the disk.
        allowed_media_path: a folder below which pictures may lie, too.
        where: file and line of the document, for messages.

    Raises:
        PicturePathError: with all links followed it lies elsewhere, or its name is none.
    """
    picture = f"{where}picture {shortened(name)}"
    if folder is None:
        raise PicturePathError(f"{picture} is no file of the sample; pictures of an archive's documents lie in it")
    plain = unquote(name.removeprefix(FILE_URL)) if name.startswith(FILE_URL) else name
    path = str(folder / plain)
    if not _is_name(path):
        raise PicturePathError(f"{picture} cannot be read: that is no name of a file")
    allowed = [one for one in (folder, allowed_media_path) if one is not None]
    if not any(_is_below(path, one) for one in allowed):
        problem = PicturePathError(
            f"{picture} lies outside of {' and of '.join(map(str, allowed))}; put it beside its document, or name the "
            "folder of the pictures: --allowed-media-path DIR (in Python: allowed_media_path)"
        )
        problem.path = path
        raise problem
    return path


def require_media_path(folder: str | Path | None) -> Path | None:
    """The folder of that name. Raises ValueError where there is none."""
    if folder is not None and not os.path.isdir(folder):
        raise ValueError(f"--allowed-media-path {folder}: there is no such folder")
    return None if folder is None else Path(folder)


def shortened(text: str, most: int = SHOWN) -> str:
    """A text for a message: its beginning and end, where it is longer than `most` characters; on one line."""
    text = CONTROL.sub(lambda found: repr(found[0])[1:-1], text)
    if len(text) <= most:
        return text
    return f"{text[: most * 2 // 3]}...{text[-most // 4 :]} ({len(text)} characters)"


def _is_name(path: str) -> bool:
    """Whether a file could be called that: neither too long, nor with a zero byte or half a surrogate pair."""
    try:
        return len(os.fsencode(path)) <= LONGEST_PATH and "\0" not in path
    except UnicodeEncodeError:
        return False


def _is_below(path: str, folder: Path) -> bool:
    root = os.path.realpath(folder)
    return os.path.commonpath([root, os.path.realpath(path)]) == root
