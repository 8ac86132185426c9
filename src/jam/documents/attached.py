"""Pictures beside a record's text, under separate keys or as files of the sample, and their places in the text.

Places are ``<image>`` in a text, and parts of type image without a picture (LLaMA-Factory, LLaVA, TRL). Places take the
pictures in order; there must be equally many. A text without places is a caption, which its pictures follow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jam.documents.document import Message, Part, Text
from jam.documents.lost import names_picture
from jam.documents.pictures import Image

PLACE = "<image>"
# Keys of pictures, and keys of their names, which only describe the pictures if there are pictures, too.
PICTURE_KEYS = (
    *("image", "images", "img", "imgs", "picture", "pictures", "photo", "photos", "jpg", "jpeg", "png", "webp"),
    *("image_bytes", "image_base64"),
)
NAME_KEYS = (
    *("image_path", "image_paths", "img_path", "img_paths", "image_file", "image_files"),
    *("image_url", "image_urls", "img_url", "img_urls"),
)
FILE_KEYS = ("file_name", "filename", "image_name", "image_filename")  # name a picture if the suffix is a picture's
CONTENTS = ("bytes", "path", "url", "data", "image")  # keys of an object that is a picture


@dataclass
class Place:
    """The place in a text for a picture beside the text."""


@dataclass
class Sample:
    """The surroundings of a record: the folder of its file, and the files of its sample or columns of its row by name.

    `folder` is None for a sample of an archive, which has no other files. `key` is the common prefix of the names of a
    sample's files; `used` are the files that became pictures; `allowed_media_path` is as in `read_documents`.
    """

    folder: Path | None = field(default_factory=Path)
    where: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)
    key: str = ""
    used: set[str] = field(default_factory=set)
    allowed_media_path: Path | None = None

    def picture(self, value: Any) -> Image:
        """The picture with this content or name: a file of the sample, or a file beside the record's file.

        Raises:
            ValueError: `value` is neither content nor name, or the file is in a forbidden place (`picture_path`).
        """
        if isinstance(value, Image):
            return value
        if isinstance(value, dict):
            contents = [value[name] for name in CONTENTS if value.get(name)]
            path = value.get("path")
            if contents and isinstance(contents[0], bytes) and isinstance(path, str):
                return Image(data=contents[0], path=path, where=self.where)
            value = contents[0] if contents else value
        if isinstance(value, bytes):
            return Image(data=value, path=f"of {self.key}", where=self.where)
        if not isinstance(value, str):
            raise ValueError(f"{self.where}an image is a file's content or name; got {type(value).__name__}")
        for name in (value, value.rpartition("/")[2].removeprefix(f"{self.key}.")):
            if isinstance(data := self.files.get(name), bytes):
                self.used.add(name)
                return Image(data=data, path=value, where=self.where)
        return Image.at(value, self.folder, self.where, self.allowed_media_path)

    def pictures(self, value: Any) -> list[Image]:
        """The pictures of a list, or of a single value, without empty values."""
        values = value if isinstance(value, list | tuple) else [value]
        return [self.picture(entry) for entry in values if not _is_empty(entry)]


def attach(turns: Sequence[Message], fields: Mapping[str, Any], sample: Sample, is_caption: bool) -> set[str]:
    """Put the pictures beside a record into its turns; returns the keys of the pictures and of their names.

    Args:
        turns: turns of the record, or one turn with all its content; pictures replace the `Place` parts.
        fields: fields of the record.
        is_caption: True for content without turns, whose pictures follow it if it has no places.

    Raises:
        ValueError: numbers of places and pictures differ, or several keys have different pictures.
    """
    own = [part for turn in turns for part in turn.content if isinstance(part, Image)]
    found = {key: sample.pictures(fields[key]) for key in _keys(fields)}
    found = {key: pictures for key, pictures in found.items() if key not in sample.used}
    keys = {*found, *sample.used}
    if found:
        for turn in turns:
            turn.content = [piece for part in turn.content for piece in _split(part)]
    elif not is_caption and not own:
        _require_no_place(turns, sample.where)
    count = sum(isinstance(part, Place) for turn in turns for part in turn.content)
    if own and not count:
        _require_among(found, own, sample.where)
        return keys
    key, pictures = _chosen(found, count, sample.where)
    if is_caption and not count and len(turns) == 1:
        turns[0].content += pictures
    elif count != len(pictures):
        under = f'under "{key}"' if key else f"beside the text (keys {', '.join(PICTURE_KEYS[:4])}, ...)"
        raise ValueError(
            f"{sample.where}{count} places of pictures ({PLACE} in a text, or parts of type image without a picture) "
            f"and {len(pictures)} pictures {under}; as many places as pictures are needed"
        )
    stream = iter(pictures)
    for turn in turns:
        turn.content = [next(stream) if isinstance(part, Place) else part for part in turn.content]
    return keys


def _keys(fields: Mapping[str, Any]) -> list[str]:
    """Keys of pictures and of their names; the files of the sample, which others may name, come last."""
    known = [
        key
        for key, value in fields.items()
        if (key in PICTURE_KEYS + NAME_KEYS and not isinstance(value, int | float))
        or (key in FILE_KEYS and isinstance(value, str) and names_picture(value))
        or (isinstance(value, bytes) and names_picture(f".{key}"))
    ]
    return sorted(known, key=lambda key: isinstance(fields[key], bytes))


def _require_no_place(turns: Sequence[Message], where: str) -> None:
    """Raises ValueError for a conversation with places and no pictures; elsewhere `PLACE` is an ordinary word."""
    if any(PLACE in part.text for turn in turns for part in turn.content if isinstance(part, Text)):
        raise ValueError(f"{where}a message has a place for a picture ({PLACE}), and there are no pictures beside it")


def _split(part: Part) -> list[Any]:
    """The pieces of a text, with a `Place` between them."""
    if not isinstance(part, Text) or PLACE not in part.text:
        return [part]
    pieces: list[Any] = []
    for number, text in enumerate(part.text.split(PLACE)):
        pieces += [Place()] * (number > 0) + [Text(text)] * bool(text)
    return pieces


def _chosen(found: dict[str, list[Image]], count: int, where: str) -> tuple[str, list[Image]]:
    """The key and pictures of the record: contents rather than names, and keys of pictures rather than of names."""
    filled = {key: pictures for key, pictures in found.items() if pictures}
    contents = {key: pictures for key, pictures in filled.items() if all(map(_is_here, pictures))}
    named = {key: pictures for key, pictures in filled.items() if key in PICTURE_KEYS}
    best = contents or named or filled
    if len(best) > 1 and len(best) == count and all(len(pictures) == 1 for pictures in best.values()):
        return " and ".join(best), [pictures[0] for pictures in best.values()]
    first = next(iter(best), next(iter(found), ""))
    if any(pictures != best[first] for pictures in best.values()):
        raise ValueError(
            f"{where}there are pictures under {' and '.join(map(repr, best))}; put those that belong to the text under "
            f'one key, "images", in their order, with {PLACE} for each where they stand in the text'
        )
    return first, best.get(first, [])


def _require_among(found: dict[str, list[Image]], own: list[Image], where: str) -> None:
    """Raises ValueError for a picture beside the parts that is not among the parts' pictures `own`."""
    known = [picture.data or picture.path for picture in own]
    for key, pictures in found.items():
        if key not in NAME_KEYS + FILE_KEYS and any((p.data or p.path) not in known for p in pictures):
            raise ValueError(f'{where}none of the parts is the picture under "{key}"; make it a part, or leave it out')


def _is_here(picture: Image) -> bool:
    return picture.data is not None or (picture.path or "")[:5].lower() == "data:"


def _is_empty(value: Any) -> bool:
    if isinstance(value, dict):
        return not any(value.values())
    return value is None or value == "" or value == b""
