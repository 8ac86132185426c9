"""Where two parents keep what they share: text ids, image codes, and text ids that are names of image codes."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from jam.fusion.image_tokens import image_rows, image_tokens, vocabularies
from jam.fusion.parents import Parent
from jam.models.towers import family_of
from jam.vocabulary import ParentRows, ranges

CodebookInfo = tuple[int, tuple[int, int]]
"""Codebook size, and tokens of an image as (height, width)."""


def find_image_size(
    text: Parent,
    image: Parent,
    image_tokenizer: CodebookInfo | None,
    image_codes: int | None,
    plan_only: bool,
    notes: list[str],
) -> int:
    """Number of image codes. Raises ValueError when it is told twice, or (unless `plan_only`) not at all."""
    manifest = image.manifest.vocabulary if image.manifest else None
    told = {
        "the image parent's manifest": manifest["image_size"] if manifest else None,
        "the image tokenizer": image_tokenizer[0] if image_tokenizer else None,
        "--image-codes": image_codes,
    }
    sizes = {source: size for source, size in told.items() if size is not None}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{source} says {size}" for source, size in sizes.items())
        raise ValueError(f"the number of image codes is not clear: {listed}; give the image tokenizer of this parent")
    if sizes:
        return next(iter(sizes.values()))
    if not plan_only:
        raise ValueError(
            f"how many image codes the image parent {image.folder} has is not known: it brings neither manifest.json "
            "nor image_tokenizer/; give its image tokenizer with --image-tokenizer"
        )
    named = max(len(image_tokens(vocabulary)) for vocabulary in vocabularies(image.whole_config, image.tokenizer))
    if named:
        notes.append(f"assumed: the {named:,} image codes that the image parent's tokens are named after")
        return named
    appended = image.vocab_size - text.vocab_size
    if appended > 0:
        notes.append(f"assumed: the image parent's last {appended:,} rows are its image codes")
        return appended
    if appended == 0:
        notes.append(
            "assumed: all rows are shared text, since both configs have one vocabulary size; see --image-codes"
        )
        return 0
    notes.append(f"assumed: all {image.vocab_size:,} rows of the image parent are image codes")
    return image.vocab_size


def find_rows(
    text: Parent, image: Parent, image_size: int, image_start: int | None, plan_only: bool, notes: list[str]
) -> tuple[ParentRows, ParentRows]:
    """Rows of the text parent and of the image parent.

    Image codes are where the image parent's manifest or `image_start` says, else where names of its tokens say, else
    behind its text: the last rows of its table if they begin where the text ids or the text parent's table end, else
    the rows behind its tokenizer's ids. Where that could be another row too, every picture might be read wrongly, and
    `image_start` must say it.

    Raises:
        ValueError: the rows are not clear, not within the table, or not one for each code.
    """
    named = None
    if image.rows is None and image_start is None:
        named = image_rows(image.whole_config, image.tokenizer, image_size, image.vocab_size)
    if named is not None:
        return _named_rows(text, image, image_size, named, plan_only)
    start = _first_row(text, image, image_size, notes) if image_start is None else image_start
    text_rows = _text_rows(text, image, image_size, start, plan_only)
    told = image_start is not None or _written_by_a_module(image)
    rows = image.rows or _image_rows(_shared_size(text_rows, text, image), text, image, image_size, start, told)
    _require_told(rows, image_start)
    return text_rows, rows


def find_rows_apart(
    text: Parent, image: Parent, image_size: int, image_start: int | None, notes: list[str]
) -> tuple[ParentRows, ParentRows]:
    """As `find_rows`, of parents whose tokenizers differ: text is the text parent's alone.

    Without manifest, `image_start` and names, image codes begin behind the ids of the image parent's tokenizer.

    Raises:
        ValueError: as `find_rows`.
    """
    text_rows = replace(text.rows or ParentRows(_text_size(text, None)), image_start=None, image_rows=None)
    named = None
    if image.rows is None and image_start is None:
        named = image_rows(image.whole_config, image.tokenizer, image_size, image.vocab_size)
    if named is not None:
        rows = ParentRows.of_codes(0, named.tolist())
    else:
        rows = image.rows or ParentRows(0, _first_row_apart(image, image_size, image_start, notes))
        _require_told(rows, image_start)
    if rows.image_start == 0 or (image.rows is not None and rows.text_size == 0):  # it reads codes only
        return text_rows, rows
    manifest = image.manifest.vocabulary if image.manifest else None
    eos_row = manifest["eos_id"] if manifest else image.tokenizer.eos_token_id  # type: ignore[union-attr]
    return text_rows, replace(rows, text_size=0, eos_row=eos_row, made_text=True)


def _first_row_apart(image: Parent, image_size: int, image_start: int | None, notes: list[str]) -> int:
    """The row of code 0, in a table without names that shares no text with another."""
    last, own = image.vocab_size - image_size, image.text_tokens.size
    if image_start is not None:
        if not 0 <= image_start <= last:
            raise _not_within(image, image_size, image_start)
        return image_start
    if last in (0, own) or _written_by_a_module(image):
        return last
    if own > last:
        raise ValueError(
            f"where the image codes begin is not clear: the last {image_size} of the image parent's {image.vocab_size} "
            f"rows begin at row {last}, among the {own} ids of its tokenizer; name the row of image code 0 with "
            "--image-start"
        )
    notes.append(_behind_tokenizer(own, image_size))
    return own


def _require_told(rows: ParentRows, image_start: int | None) -> None:
    if image_start not in (None, rows.image_start):
        raise ValueError(
            f"the image parent's manifest says that its codes begin at row {rows.image_start}, --image-start "
            f"says {image_start}; leave the option out"
        )


def _not_within(image: Parent, image_size: int, start: int) -> ValueError:
    return ValueError(
        f"--image-start {start}: {image_size} image codes from there on are not within the {image.vocab_size} rows "
        "of the image parent"
    )


def _behind_tokenizer(own: int, image_size: int) -> str:
    return f"image codes are rows {own:,} to {own + image_size - 1:,} of the image parent, behind its tokenizer's"


def _shared_size(text_rows: ParentRows, text: Parent, image: Parent) -> int:
    """Text ids that are the image parent's too: all, but for those that only the text parent's tokenizer has."""
    if text.tokenizer is None or image.tokenizer is None:
        return text_rows.text_size
    return min(text_rows.text_size, text.text_tokens.size, image.text_tokens.size)


def find_text_image_ids(
    text: Parent, image: Parent, text_rows: ParentRows, image_rows: ParentRows
) -> tuple[tuple[int, int], ...]:
    """Text ids that a parent names as image codes, as ranges.

    Raises:
        ValueError: the parents name other ids so, or other codes.
    """
    names = [_names(parent, text_rows.text_size) for parent in (text, image)]
    ids = names[0].keys() | (names[1].keys() if image_rows.text_size else set())
    if image_rows.text_size and text.tokenizer and (differing := names[0].items() ^ names[1].items()):
        row = min(differing)[0]
        ours, theirs = (f"image code {found[row]}" if row in found else "text" for found in names)
        if row in names[1] or image.tokenizer:
            raise ValueError(
                f"row {row} is {ours} by the names of the text parent's tokens and {theirs} by those of the image "
                "parent's; the parents must share a vocabulary; choose parents that do"
            )
    for parent in (text,) if image_rows.made_text else (text, image):
        manifest = parent.manifest.vocabulary if parent.manifest else None
        for first, end in (manifest or {}).get("text_image_ids", ()):
            ids |= set(range(first, end))
    return ranges(ids)


def _names(parent: Parent, text_size: int) -> dict[int, int]:
    """The image code that a text id is named after."""
    return {
        row: code
        for vocabulary in vocabularies(parent.whole_config, parent.tokenizer)
        for code, row, _ in image_tokens(vocabulary)
        if row < text_size
    }


def _named_rows(
    text: Parent, image: Parent, image_size: int, named: Tensor, plan_only: bool
) -> tuple[ParentRows, ParentRows]:
    one_size = text.vocab_size == image.vocab_size
    text_size = _text_size(text, text.vocab_size if plan_only or one_size else None)
    own = image_rows(text.whole_config, text.tokenizer, image_size, text.vocab_size)
    text_rows = ParentRows(text_size) if own is None else ParentRows.of_codes(text_size, own.tolist())
    text_rows = text.rows or text_rows
    return text_rows, ParentRows.of_codes(_shared_size(text_rows, text, image), named.tolist())


def _first_row(text: Parent, image: Parent, image_size: int, notes: list[str]) -> int:
    """The row of code 0 in a table without names; that it makes sense is left to `_image_rows`."""
    last = image.vocab_size - image_size
    own = image.text_tokens.size if image.tokenizer is not None else None
    if image.rows or _written_by_a_module(image) or last in (0, text.vocab_size) or own is None or own >= last:
        return last
    if own < text.vocab_size <= last:  # behind the text parent's table there would be room as well
        return last
    notes.append(_behind_tokenizer(own, image_size))
    return own


def _written_by_a_module(image: Parent) -> bool:
    """Whether image codes are no rows of the head, so that they are the embedding's last rows (Janus)."""
    return family_of(image.config).image_head is not None


def _text_rows(text: Parent, image: Parent, image_size: int, image_start: int, plan_only: bool) -> ParentRows:
    if text.rows is not None:
        return text.rows
    one_vocabulary = image.rows is None and text.vocab_size == image.vocab_size and image_size > 0
    assumed = image_start if one_vocabulary else text.vocab_size
    text_size = _text_size(text, assumed if plan_only or one_vocabulary else None)
    has_codes = one_vocabulary and image_start >= text_size
    return ParentRows(text_size, image_start if has_codes else None)


def _image_rows(text_size: int, text: Parent, image: Parent, image_size: int, start: int, told: bool) -> ParentRows:
    """Rows of an image parent without manifest, whose codes begin at row `start`; `told`: the user says so."""
    if told and not 0 <= start <= image.vocab_size - image_size:
        raise _not_within(image, image_size, start)
    if start == 0:
        return ParentRows(0, 0)
    if told and start < text_size:
        raise ValueError(f"--image-start {start} is among the {text_size} text ids, which are the image parent's too")
    if start < text_size:
        raise ValueError(
            f"the image parent has {image.vocab_size} rows, which are neither {text_size} text ids and {image_size} "
            "image codes nor image codes alone; describe its rows in a manifest.json, or give its own image tokenizer"
        )
    own = image.text_tokens.size if image.tokenizer is not None else text_size
    if not told and start not in (text_size, text.vocab_size, own):
        raise ValueError(
            f"where the image codes begin is not clear: the last {image_size} of the image parent's {image.vocab_size} "
            f"rows begin at row {start}, but the text ids end at {text_size} and the text parent's table at "
            f"{text.vocab_size}; name the row of image code 0 with --image-start, or describe the rows in a "
            "manifest.json"
        )
    return ParentRows(text_size, start)


def _text_size(text: Parent, assumed: int | None) -> int:
    """Number of text ids. Raises ValueError: there is no tokenizer (and nothing `assumed`), or too short a table."""
    if text.rows is not None:
        return text.rows.text_size
    if text.tokenizer is None and assumed is not None:
        return assumed
    if text.tokenizer is None:
        raise ValueError(
            f"the text parent {text.folder} has no tokenizer, neither in the folder nor in tokenizer/, and its "
            "table is not as long as the image parent's: what its rows mean is not clear; copy the tokenizer's files "
            "there"
        )
    text_size = len(text.tokenizer)
    if text_size > text.vocab_size:
        raise ValueError(
            f"the tokenizer of the text parent has {text_size} entries, its model {text.vocab_size} rows; "
            "resize the model's embeddings first"
        )
    return text_size
