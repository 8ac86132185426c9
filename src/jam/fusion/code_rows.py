"""The rows in which two parents keep text ids and image codes, and the text ids that name image codes."""

from __future__ import annotations

from dataclasses import replace

from jam.fusion.image_tokens import image_rows, image_tokens, vocabularies
from jam.fusion.parents import Parent
from jam.models.towers import family_of
from jam.vocabulary import ParentRows, ranges

CodebookInfo = tuple[int, tuple[int, int]]
"""Codebook size, and the tokens of an image as (height, width)."""


def find_image_size(
    text: Parent,
    image: Parent,
    image_tokenizer: CodebookInfo | None,
    image_codes: int | None,
    plan_only: bool,
    notes: list[str],
) -> int:
    """Number of image codes. Raises ValueError when two sources differ, or (unless `plan_only`) no source tells it."""
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
        if not (size := next(iter(sizes.values()))):
            raise ValueError(
                f"the image parent {image.folder} has no image codes, as {next(iter(sizes))} says; "
                "are --text and --image exchanged?"
            )
        return size
    if not plan_only:
        raise ValueError(
            f"how many image codes the image parent {image.folder} has is not known: it brings neither manifest.json "
            "nor image_tokenizer/; give its image tokenizer with --image-tokenizer"
        )
    named = max(len(image_tokens(vocabulary)) for vocabulary in vocabularies(image.whole, image.tokenizer))
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
    text: Parent,
    image: Parent,
    image_size: int,
    image_start: int | None,
    one_tokenizer: bool,
    plan_only: bool,
    notes: list[str],
) -> tuple[ParentRows, ParentRows]:
    """Rows of the text parent and of the image parent.

    The first source that tells the rows of image codes counts: the image parent's manifest or `image_start`, the names
    of its tokens, the size of its table (see `_first_row`). The size of the text parent's table does not count.

    Args:
        one_tokenizer: True if both parents have the same text ids; otherwise only the text parent has text rows.

    Raises:
        ValueError: the rows are not clear, are outside the table, or are not one row for each code.
    """
    named = None
    if image.rows is None and image_start is None:
        named = image_rows(image.whole, image.tokenizer, image_size, image.vocab_size)
    if named is not None:
        rows = ParentRows.of_codes(0, named.tolist())
    else:
        rows = image.rows or ParentRows(0, _first_row(text, image, image_size, image_start, plan_only, notes))
    if image.rows is not None and image_start not in (None, rows.image_start):
        raise ValueError(
            f"the image parent's manifest says that its codes begin at row {rows.image_start}, --image-start "
            f"says {image_start}; leave the option out"
        )
    codes_only = rows.text_size == 0 if image.rows is not None else named is None and rows.image_start == 0
    if not one_tokenizer:
        text_rows = replace(text.rows or ParentRows(_text_size(text, None)), image_start=None, image_rows=None)
        return text_rows, rows if codes_only else _apart(image, rows)
    text_rows = _text_rows(text, image, image_size, None if named is not None else rows.image_start, plan_only)
    if image.rows is not None or codes_only:
        return text_rows, rows
    shared = _shared_size(text_rows, text, image)
    if named is None and rows.image_start is not None and rows.image_start < shared:
        what = "row" if image_start is None else "--image-start"
        raise ValueError(
            f"{what} {rows.image_start} is among the {shared} text ids, which are the image parent's too; give its own "
            "image tokenizer, or another row of image code 0 with --image-start"
        )
    return text_rows, replace(rows, text_size=shared)


def _first_row(
    text: Parent, image: Parent, image_size: int, image_start: int | None, plan_only: bool, notes: list[str]
) -> int:
    """The row of code 0 in a table without names: `image_start`, or the only possible row.

    The codes follow the parent's text ids when they fill the rest of the table. In a larger table they also follow the
    text ids if the public code of the family says so; otherwise they may be the last rows too, which a plan assumes. An
    image parent without a tokenizer has the text parent's ids.

    Raises:
        ValueError: several rows are possible, or none.
    """
    last, ids = image.vocab_size - image_size, _text_end(text, image)
    if image_start is not None and not 0 <= image_start <= last:
        raise ValueError(
            f"--image-start {image_start}: {image_size} image codes from there on are not within the "
            f"{image.vocab_size} rows of the image parent"
        )
    if image_start is not None:
        return image_start
    if last < 0:
        raise ValueError(
            f"the image parent has {image.vocab_size} rows, fewer than {image_size} image codes; give its own image "
            "tokenizer"
        )
    if ids is None or last in (0, ids) or image_size == 0 or _written_by_a_module(image):
        return last
    if ids < last and _are_behind_ids(image):
        notes.append(f"image codes are rows {ids:,} to {ids + image_size - 1:,} of the image parent, behind its ids")
        return ids
    rows = f"where the image codes begin is not clear: of the image parent's {image.vocab_size} rows {ids} are text"
    if ids < last:
        problem = (
            f"{rows} and {image_size} image codes, directly behind these or the last ones; name the row of image code "
            f"0: --image-start {ids} or --image-start {last}"
        )
    else:
        problem = (
            f"{rows}, and the last {image_size} begin among these, at row {last}; give its own image tokenizer, or "
            "name the row of image code 0 with --image-start"
        )
    if not plan_only:
        raise ValueError(problem)
    notes.append(f"{problem}; assumed: the last rows")
    return last


def _text_end(text: Parent, image: Parent) -> int | None:
    """1 more than the image parent's highest text id; None if neither a tokenizer nor a manifest tells."""
    if image.tokenizer is not None:
        return image.text_tokens.size
    if text.rows is not None:
        return text.rows.text_size
    return None if text.tokenizer is None else text.text_end


def _are_behind_ids(image: Parent) -> bool:
    """True if the image parent's tokenizer has the tokens of a layout whose codes directly follow the text ids."""
    if image.tokenizer is None:
        return False
    stated = family_of(image.settings).layouts
    return any(layout.behind_ids and layout.missing(image.tokenizer) is None for layout in stated)


def _apart(image: Parent, rows: ParentRows) -> ParentRows:
    """Rows of an image parent that reads text through an input table of its own, which the fusion makes."""
    manifest = image.manifest.vocabulary if image.manifest else None
    eos_row = manifest["eos_id"] if manifest else image.tokenizer.eos_token_id  # type: ignore[union-attr]
    return replace(rows, text_size=0, eos_row=eos_row, made_text=True)


def _shared_size(text_rows: ParentRows, text: Parent, image: Parent) -> int:
    """Number of text ids that both parents have: all but ids that only the text parent's tokenizer has."""
    if text.tokenizer is None or image.tokenizer is None:
        return text_rows.text_size
    return min(text_rows.text_size, text.text_tokens.size, image.text_tokens.size)


def find_text_image_ids(
    text: Parent, image: Parent, text_rows: ParentRows, image_rows: ParentRows
) -> tuple[tuple[int, int], ...]:
    """Ranges of text ids whose tokens are named as image codes.

    Raises:
        ValueError: the parents name different ids so, or give an id different codes.
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
    """Image codes by the text ids that name them."""
    return {
        row: code
        for vocabulary in vocabularies(parent.whole, parent.tokenizer)
        for code, row, _ in image_tokens(vocabulary)
        if row < text_size
    }


def _written_by_a_module(image: Parent) -> bool:
    """True if the head has no rows of image codes, so that the codes are the embedding's last rows (Janus)."""
    return family_of(image.settings).image_head is not None


def _text_rows(text: Parent, image: Parent, image_size: int, image_start: int | None, plan_only: bool) -> ParentRows:
    """Rows of the text parent; `image_start`: the image parent's row of code 0, None if its codes have names."""
    if text.rows is not None:
        return text.rows
    one_vocabulary = image.rows is None and text.vocab_size == image.vocab_size and image_size > 0
    assumed = image_start if one_vocabulary and image_start is not None else text.vocab_size
    text_size = _text_size(text, assumed if plan_only or one_vocabulary else None)
    if image_start is None and image.rows is None:
        own = image_rows(text.whole, text.tokenizer, image_size, text.vocab_size)
        return ParentRows(text_size) if own is None else ParentRows.of_codes(text_size, own.tolist())
    has_codes = one_vocabulary and image_start is not None and image_start >= text_size
    return ParentRows(text_size, image_start if has_codes else None)


def _text_size(text: Parent, assumed: int | None) -> int:
    """Number of text ids. Raises ValueError: no tokenizer and nothing `assumed`, or a table shorter than the ids."""
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
    if text.text_end > text.vocab_size:
        raise ValueError(
            f"the tokenizer of the text parent {text.folder} has the id {text.text_end - 1}, its model "
            f"{text.vocab_size} rows; resize the model's embeddings first"
        )
    return text.text_end
