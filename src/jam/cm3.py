"""CM3, the causally masked objective: spans move to the end, after sentinels (docs/method.md, section 4).

``</s> a b c d </s>`` with the span ``b c`` masked is ``</s> a <sentinel:0> d </s> <sentinel:0> b c <eoss>``. The unit
is one document; no span crosses ``<break>``, the document's ends or, in messages, the beginning of the answer. In a
family's layout, a span stays within a text or the codes of one image: frames stay whole, and only row ends between the
codes of a span move with the span.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jam.vocabulary import Vocabulary

Span = tuple[int, int]  # half open


def segments(ids: Sequence[int], vocabulary: Vocabulary, start: int | None = None) -> list[Span]:
    """Texts and images, without ``<break>`` and frames, up to the id that closes the document (or an open end).

    Args:
        start: index of the first id; None: after the ids that open a document.
    """
    return _parts(ids, vocabulary, start, framed=False)


def parts(ids: Sequence[int], vocabulary: Vocabulary, start: int | None = None) -> list[Span]:
    """As `segments`, but in a family's layout images include their frames, so that parts are adjacent."""
    return _parts(ids, vocabulary, start, framed=not vocabulary.pictures.separator)


def _parts(ids: Sequence[int], vocabulary: Vocabulary, start: int | None, framed: bool) -> list[Span]:
    """Texts, and images with their frames or without."""
    start = vocabulary.opening_of(ids) if start is None else start
    stop = len(ids) - (len(ids) > start and vocabulary.ends_document(int(ids[-1])))
    found: list[Span] = []
    place = 0
    for frame in vocabulary.pictures.frames(ids[start:stop]):
        found += [(place, frame.start), (frame.start, frame.end) if framed else (frame.first, frame.last)]
        place = frame.end
    found.append((place, stop - start))
    return [(start + left, start + right) for left, right in found if left < right]


def draw_spans(
    ids: Sequence[int],
    vocabulary: Vocabulary,
    rng: np.random.Generator,
    start: int | None = None,
    poisson: float = 1.0,
) -> list[Span]:
    """Spans to mask, in order (docs/method.md, section 4, rules 1 to 3); 37 % of documents or more get no span.

    Of n^2 candidates, the first n that do not intersect are kept and clipped to one segment each; empty spans are
    dropped.
    """
    start = vocabulary.opening_of(ids) if start is None else start
    runs = segments(ids, vocabulary, start)
    if not runs:
        return []
    length = runs[-1][1] - start
    count = min(int(rng.poisson(poisson)), max(0, vocabulary.sentinels - 1))
    kept: list[Span] = []
    for low, high in np.sort(rng.random((count * count, 2)), axis=1):
        left, right = start + int(low * length), start + int(high * length + 0.5)
        if all(right <= span[0] or left >= span[1] for span in kept):
            kept.append((left, right))
        if len(kept) == count:
            break
    clipped = [_clip(span, runs) for span in sorted(kept)]
    return [span for span in clipped if span[0] < span[1]]


def _clip(span: Span, runs: Sequence[Span]) -> Span:
    """The overlap of the span with the segment that it overlaps most."""
    overlaps = [(max(span[0], left), min(span[1], right)) for left, right in runs]
    return max(overlaps, key=lambda overlap: overlap[1] - overlap[0])


def text_spans(ids: Sequence[int], vocabulary: Vocabulary, start: int | None = None) -> list[Span]:
    """The spans that mask exactly the whole text from `start` on; none without text or without image.

    These spans train the paper's unconditional prompt of classifier-free guidance, ``</s> <sentinel:0> <break>``.
    """
    runs = segments(ids, vocabulary, start)
    texts = [span for span in runs if not vocabulary.is_image(int(ids[span[0]]))]
    return texts if len(texts) < len(runs) and len(texts) <= vocabulary.sentinels else []


def part_span(
    ids: Sequence[int], vocabulary: Vocabulary, rng: np.random.Generator, start: int | None = None
) -> list[Span]:
    """A span of one random part from `start` on, a picture or a text; none if there are no parts.

    This span trains the gaps of `jam fill`; spans of rules 1 to 3 are hardly ever exactly a picture or a text.
    """
    runs = segments(ids, vocabulary, start)
    return [runs[int(rng.integers(len(runs)))]] if runs and vocabulary.sentinels else []


def mask(ids: Sequence[int], spans: Sequence[Span], vocabulary: Vocabulary) -> list[int]:
    """The ids with each span replaced by its sentinel, and ``<sentinel:i> span <eoss>`` appended: 3 more ids a span.

    An open piece gets a closing ``</s>`` (one more id).
    """
    if not spans:
        return list(ids)
    source: list[int] = []
    moved: list[int] = []
    position = 0
    for index, (left, right) in enumerate(spans):
        sentinel = vocabulary.sentinel_id(index)
        source += [*ids[position:left], sentinel]
        moved += [sentinel, *ids[left:right], vocabulary.eoss_id]
        position = right
    source += ids[position:]
    if not vocabulary.ends_document(source[-1]):
        source.append(vocabulary.eos_id)
    return source + moved


def unmask(ids: Sequence[int], vocabulary: Vocabulary) -> list[int]:
    """The ids before `mask`, with every span in place of its sentinel.

    Raises:
        ValueError: a sentinel without span, or a span without sentinel.
    """
    if not any(vocabulary.is_sentinel(int(token)) for token in ids):
        return list(ids)
    close = _close(ids, vocabulary)
    spans: dict[int, list[int]] = {}
    position = close + 1
    while position < len(ids):
        end = position + 1
        while end < len(ids) and ids[end] != vocabulary.eoss_id:
            end += 1
        spans[int(ids[position])] = [int(token) for token in ids[position + 1 : end]]
        position = end + 1
    document: list[int] = []
    for token in map(int, ids[: close + 1]):
        if not vocabulary.is_sentinel(token):
            document.append(token)
        elif token in spans:
            document += spans.pop(token)
        else:
            raise ValueError(f"{vocabulary.name(token)} has no span after the document")
    if spans:
        raise ValueError(f"the span of {vocabulary.name(next(iter(spans)))} belongs to no sentinel in the document")
    return document


def trim(ids: Sequence[int], limit: int, vocabulary: Vocabulary, start: int | None = None) -> list[int] | None:
    """Places to keep of a masked document with at most `limit` ids; the last text ids of its source are cut.

    Relocated spans, sentinels, images and ids before `start` stay. None if there is too little text to cut.
    """
    excess = len(ids) - limit
    if excess <= 0:
        return list(range(len(ids)))
    start = vocabulary.opening_of(ids) if start is None else start
    places = (text_places(ids[start : _close(ids, vocabulary)], vocabulary) + start).tolist()
    if len(places) <= excess:
        return None
    cut = set(places[-excess:])
    return [place for place in range(len(ids)) if place not in cut]


def text_places(ids: Sequence[int] | np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """Places of ordinary text (`Vocabulary.is_text`) outside the frames of images."""
    tokens = np.asarray(ids, dtype=np.int64)
    is_text = (tokens < vocabulary.text_size) & ~np.isin(tokens, vocabulary.end_ids)
    for first, end in vocabulary.text_image_ids:
        is_text &= (tokens < first) | (tokens >= end)
    for frame in vocabulary.pictures.frames(tokens):
        is_text[frame.start : frame.end] = False
    return np.flatnonzero(is_text)


def _close(ids: Sequence[int], vocabulary: Vocabulary) -> int:
    """The place of the id that closes the source."""
    close = vocabulary.close_of(ids)
    if close is None:
        raise ValueError("a document with sentinels must be closed by </s>, with the spans after it")
    return close
