"""Splits of documents longer than the context: between parts, never inside an image, with the question repeated."""

from __future__ import annotations

from dataclasses import replace

from jam.cm3 import Span, parts
from jam.codec import Encoded
from jam.vocabulary import Vocabulary


class UnsplittableError(ValueError):
    """A document's question, or a picture after the question, does not fit into the context."""


def why_unsplittable(encoded: Encoded, context: int, vocabulary: Vocabulary) -> str | None:
    """The reason why a document cannot be split into sequences of `context` positions; None if it can."""
    try:
        split_spans(encoded, context + 1, vocabulary)  # the last of n ids is only predicted
    except UnsplittableError as error:
        return f"{error}; the context is {context}"
    return None


def split(encoded: Encoded, limit: int, vocabulary: Vocabulary) -> list[Encoded]:
    """Pieces of at most `limit` ids, each a document that begins with ``</s>`` and the question.

    A text and the picture after it share a piece if they fit. Only the last piece is closed by ``</s>``. A text longer
    than a whole piece is cut between tokens.

    Raises:
        UnsplittableError: the question, or an image together with it, does not fit into `limit`.
    """
    return [cut(encoded, span, vocabulary) for span in split_spans(encoded, limit, vocabulary)]


def cut(encoded: Encoded, span: Span, vocabulary: Vocabulary) -> Encoded:
    """The piece of a document that holds a span of its main part; only the first piece learns the repeated ids."""
    (left, right), ids, start = span, encoded.ids, encoded.main_start
    opening = [vocabulary.break_id] * (left > start and vocabulary.is_image(ids[left]))
    *front, main = encoded.segments
    piece = [*ids[:start], *opening, *ids[left:right]]
    if left > start:
        front = [replace(segment, weight=0.0) for segment in front]
    return Encoded(piece, (*front, replace(main, end=len(piece))))


def split_spans(encoded: Encoded, limit: int, vocabulary: Vocabulary) -> list[Span]:
    """The spans of the main part that the pieces of `split` hold; between two spans at most ``<break>`` is left out."""
    ids, start = encoded.ids, encoded.main_start
    if len(ids) <= limit:
        return [(start, len(ids))]
    found = parts(ids, vocabulary, start)
    tail = len(ids) - (found[-1][1] if found else start)
    room = limit - start - tail
    if room < 1:
        raise UnsplittableError(f"a question of {start} ids leaves no room for its answer in a piece of {limit}")

    def size(span: Span) -> int:
        return span[1] - span[0] + vocabulary.is_image(ids[span[0]])  # a leading image needs its <break>

    spans: list[Span] = []
    body: Span | None = None  # span of the piece that is being filled
    for unit in _units(found, ids, vocabulary):
        longer = (body[0] if body else unit[0][0], unit[-1][1])
        if size(longer) <= room:
            body = longer
            continue
        if body:
            spans.append(body)
            body = None
        for part in unit:
            longer = (body[0] if body else part[0], part[1])
            if body and size(longer) > room:
                spans.append(body)
                longer = part
            if vocabulary.begins_image(ids[part[0]]) and size(longer) > room:
                raise UnsplittableError(
                    f"an image of {part[1] - part[0]} tokens after a question of {start} ids does not fit "
                    f"into a context of {limit}"
                )
            while size(longer) > room:
                spans.append((longer[0], longer[0] + room))
                longer = (longer[0] + room, longer[1])
            body = longer
    assert body is not None
    return [*spans, (body[0], len(ids))]


def _units(parts: list[Span], ids: list[int], vocabulary: Vocabulary) -> list[list[Span]]:
    """Texts, each with the picture after it, and pictures without a text."""
    units: list[list[Span]] = []
    for part in parts:
        if units and vocabulary.begins_image(ids[part[0]]) and not vocabulary.begins_image(ids[units[-1][-1][0]]):
            units[-1].append(part)
        else:
            units.append([part])
    return units
