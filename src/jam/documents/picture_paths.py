"""Allowed places of a document's picture files: beside the document, or below a folder that the user names.

Documents come from other people. Otherwise a document could name any file of the disk, and pages would show that file.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote

FILE_URL = "file://"
LONGEST_PATH = 4096  # bytes, the limit of Linux
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # control characters and line ends
SHOWN = 120  # characters of a name in a message


class PicturePathError(ValueError):
    """A document names a picture in a forbidden place, `path`."""

    path: str | None = None


def picture_path(name: str, folder: Path | None, allowed_media_path: Path | None = None, where: str = "") -> str:
    """The path of a picture that a document names.

    Args:
        name: path relative to `folder`, absolute path, or ``file://`` URL.
        folder: folder of the document's file; None for a document in an archive.
        allowed_media_path: another folder below which pictures may be.
        where: file and line of the document, for messages.

    Raises:
        PicturePathError: the picture, with all links followed, is in another place, or `name` is no name of a file.
    """
    picture = f"{where}picture {shortened(name)}"
    if folder is None:
        raise PicturePathError(f"{picture} is no file of the sample; pictures of an archive's documents lie in it")
    plain = unquote(name.removeprefix(FILE_URL)) if name.startswith(FILE_URL) else name
    path = str(folder / plain)
    if not _is_name(path):
        raise PicturePathError(f"{picture} cannot be read: that is no name of a file")
    allowed = [folder, *([] if allowed_media_path is None else [allowed_media_path])]
    if not any(_is_below(path, place) for place in allowed):
        problem = PicturePathError(
            f"{picture} lies outside of {' and of '.join(map(str, allowed))}; put it beside its document, or name the "
            "folder of the pictures: --allowed-media-path DIR (in Python: allowed_media_path)"
        )
        problem.path = path
        raise problem
    return path


def require_media_path(folder: str | Path | None) -> Path | None:
    """The path of a folder, or None for None. Raises ValueError if the folder does not exist."""
    if folder is not None and not os.path.isdir(folder):
        raise ValueError(f"--allowed-media-path {folder}: there is no such folder")
    return None if folder is None else Path(folder)


def shortened(text: str, most: int = SHOWN) -> str:
    """A text in one line for a message, with only its beginning and end if it has more than `most` characters."""
    text = CONTROL.sub(lambda found: repr(found[0])[1:-1], text)
    if len(text) <= most:
        return text
    return f"{text[: most * 2 // 3]}...{text[-most // 4 :]} ({len(text)} characters)"


def _is_name(path: str) -> bool:
    """True if a file can have this name: not too long, and without zero bytes and halves of surrogate pairs."""
    try:
        return len(os.fsencode(path)) <= LONGEST_PATH and "\0" not in path
    except UnicodeEncodeError:
        return False


def _is_below(path: str, folder: Path) -> bool:
    root = os.path.realpath(folder)
    return os.path.commonpath([root, os.path.realpath(path)]) == root
