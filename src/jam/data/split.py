"""Documents longer than the context: split between parts, never inside an image, with the question repeated."""

from __future__ import annotations

from jam.cm3 import parts
from jam.codec import Encoded
from jam.vocabulary import Vocabulary


def split(encoded: Encoded, limit: int, vocabulary: Vocabulary) -> list[Encoded]:
    """Pieces of at most `limit` ids, each a document that begins with ``</s>`` and the question.

    A text and the picture that follows it go into one piece where they fit. Only the last piece is closed by ``</s>``.
    A text longer than a whole piece is cut between tokens.

    Raises:
        ValueError: the question, or an image together with it, does not fit into `limit`.
    """
    ids, start = encoded.ids, encoded.answer_start
    if len(ids) <= limit:
        return [encoded]
    spans = parts(ids, vocabulary, start)
    tail = ids[spans[-1][1] if spans else start :]
    prefix = ids[:start]
    room = limit - len(prefix) - len(tail)
    if room < 1:
        raise ValueError(f"a question of {len(prefix)} ids leaves no room for its answer in a context of {limit}")
    units: list[list[list[int]]] = []  # text and the picture behind it
    for left, right in spans:
        part = ids[left:right]
        if not units or not vocabulary.begins_image(part[0]) or vocabulary.begins_image(units[-1][-1][0]):
            units.append([])
        units[-1].append(part)
    bodies: list[list[int]] = [[]]
    for unit in units:
        whole = _joined(bodies[-1], unit, vocabulary)
        if len(whole) <= room:
            bodies[-1] = whole
            continue
        if bodies[-1]:
            bodies.append([])
        for part in unit:
            if len(longer := _joined(bodies[-1], [part], vocabulary)) > room and bodies[-1]:
                bodies.append([])
                longer = _joined([], [part], vocabulary)
            if vocabulary.begins_image(part[0]) and len(longer) > room:
                raise ValueError(
                    f"an image of {len(part)} tokens behind a question of {len(prefix)} ids does not fit "
                    f"into a context of {limit}"
                )
            while len(longer) > room:
                bodies[-1], longer = longer[:room], longer[room:]
                bodies.append([])
            bodies[-1] = longer
    bodies[-1] += tail
    return [Encoded(prefix + body, start) for body in bodies]


def _joined(body: list[int], parts: list[list[int]], vocabulary: Vocabulary) -> list[int]:
    """`body` and the parts behind it, with `<break>` where a picture without frame begins or ends."""
    if vocabulary.layout is not None:
        return [*body, *(token for part in parts for token in part)]
    result = list(body)
    for part in parts:
        after_image = bool(result) and vocabulary.is_image(result[-1])
        result += [vocabulary.break_id] * (after_image + vocabulary.is_image(part[0])) + part
    return result
