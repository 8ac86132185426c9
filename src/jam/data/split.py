"""Documents longer than the context: split between parts, never inside an image, with the question repeated."""

from __future__ import annotations

from collections.abc import Sequence

from jam.cm3 import segments
from jam.codec import Encoded
from jam.vocabulary import Vocabulary


def split(encoded: Encoded, limit: int, vocabulary: Vocabulary) -> list[Encoded]:
    """Pieces of at most `limit` ids, each a document that begins with ``</s>`` and the question.

    Only the last piece is closed by ``</s>``. A text longer than a whole piece is cut between tokens.

    Raises:
        ValueError: an image together with the question does not fit into `limit`.
    """
    ids, start = encoded.ids, encoded.answer_start
    if len(ids) <= limit:
        return [encoded]
    prefix = ids[:start]
    room = limit - len(prefix) - 1  # one for the closing </s>
    pieces: list[Encoded] = []
    body: list[int] = []
    after_image = False

    def close() -> None:
        nonlocal body, after_image
        pieces.append(Encoded(prefix + body, start))
        body, after_image = [], False

    for part, is_image in _parts(ids, start, vocabulary):
        joint = [vocabulary.break_id] * (after_image + is_image)
        if body and len(body) + len(joint) + len(part) > room:
            close()
            joint = [vocabulary.break_id] * is_image
        while not is_image and len(part) > room > 0:
            body = part[:room]
            part = part[room:]
            close()
        if len(joint) + len(part) > room:
            raise ValueError(
                f"an image of {len(part)} tokens behind a question of {len(prefix)} does not fit into a context of {limit}"
            )
        body += joint + part
        after_image = is_image
    if ids[-1] == vocabulary.eos_id:
        body.append(vocabulary.eos_id)
    close()
    return pieces


def _parts(ids: Sequence[int], start: int, vocabulary: Vocabulary) -> list[tuple[list[int], bool]]:
    spans = segments(ids, vocabulary, start)
    return [(list(ids[left:right]), vocabulary.is_image(int(ids[left]))) for left, right in spans]
