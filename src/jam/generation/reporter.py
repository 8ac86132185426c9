"""From the ids of one request to events, and to the places where its document may end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jam.codec.text import decode_text
from jam.generation.events import Event, ImageDone, ImageProgress, ImageStarted, TextPiece
from jam.generation.progress import Progress
from jam.generation.text import SENTENCE_ROOM, TextRun, find_stop, held_back
from jam.grammar import State

if TYPE_CHECKING:
    from jam.codec import Codec


class Reporter:
    """Follows the progress of a request id by id.

    Args:
        id: names the request in events.
        progress: of the request, which is a step ahead when `follow` is called.
        codec: reads text and pictures; without it there are no text events, no stop strings and no sentence ends.
        is_heard: whether anybody takes events but the last one; else texts are read only where rules ask for them.

    Attributes:
        events: what happened and was not taken yet.
        is_cut: whether the document ends within a sentence, which a limit ended.
    """

    def __init__(self, id: int, progress: Progress, codec: Codec | None, is_heard: bool) -> None:
        self.id, self.progress, self.codec, self.is_heard = id, progress, codec, is_heard
        self.events: list[Event] = []
        self.is_cut = False
        self.run: TextRun | None = None
        self._safe = 0  # new ids up to the last place where the document may end
        self._base = 0  # new ids before the run, less the ids of the run that are not new
        self._sent = 0  # characters of the run that are out, or not new
        self._grid = progress.grid
        self._images = 0
        self._codes: list[int] = []  # of the picture that is open
        if progress.state is State.IMAGE:
            v, begun = progress.grammar.vocabulary, progress.ids[-progress.cursor.image_ids :]
            self._codes = v.to_codes([token for token in begun if v.is_image(token)])
        if progress.state.is_text:
            self._begin_text(_prior(progress))
        elif progress.state is State.IMAGE_SPAN:
            self._tell(ImageStarted(id, 0))

    @property
    def at_sentence_end(self) -> bool:
        """Whether the text, as far as it is written, ends with a sentence; without a codec nobody knows."""
        return self.run is not None and self.run.at_sentence_end

    def follow(self, before: State, token: int) -> int | None:
        """Take the next id, chosen in state `before`; where a stop string cuts the text, in characters of its run."""
        progress, after = self.progress, self.progress.state
        stop = None
        if before.is_text and after.is_text and progress.grammar.vocabulary.is_text(token):
            stop = self._follow_text(token)
        elif self.run is not None:
            self._end_text()
        if progress.grammar.vocabulary.is_image(token):
            self._codes.append(token - progress.grammar.vocabulary.image_start)
            self._follow_image()
        if progress.images > self._images:
            self._images, self._safe = progress.images, len(progress.new_ids)
            self._tell(ImageDone(self.id, progress.images - 1, self._codes, self._grid, self.codec))
        if after.is_text and not before.is_text:
            self._begin_text(_prior(progress) if after is State.TEXT_SPAN else [])
        elif after.is_image and not progress.cursor.codes:
            self._codes, self._grid = [], progress.grid
            self._tell(ImageStarted(self.id, progress.images))
        return stop

    def finish(self, reason: str) -> int:
        """Send what was held back and stays; returns how many new ids stay."""
        run, limits, new = self.run, self.progress.limits, len(self.progress.new_ids)
        if self.progress.state is State.IMAGE:  # cancelled within a picture
            return max(0, new - self.progress.cursor.image_ids)
        if reason in ("max_new_tokens", "context") and not limits.fills and self.codec is not None:
            if run is not None:
                told = limits.budget - SENTENCE_ROOM - self._base  # ids of the run that a stream has told already
                place, self.is_cut = run.cut(told, may_part_words=not self._safe)
                if place is None:
                    return self._safe
                self._send(place.characters)
                return self._base + place.ids
            return new
        if run is not None and reason != "stop":
            self._end_text()
        return new

    def _begin_text(self, prior: list[int]) -> None:
        if self.codec is None:
            return
        tokenizer = self.codec.tokenizer
        self.run = TextRun(lambda ids: decode_text(tokenizer, ids), prior)
        self._base = len(self.progress.new_ids) - len(prior)
        self._sent = self.run.prior_length

    def _follow_text(self, token: int) -> int | None:
        run, progress = self.run, self.progress
        if run is None:
            return None
        run.add(token)
        stops = () if progress.missing_images else progress.settings.stop
        near = progress.remaining < SENTENCE_ROOM and not progress.limits.fills
        if not (self.is_heard or stops or near):
            return None
        run.read()
        if (stop := find_stop(run.text, self._sent, stops)) is not None:
            self._send(stop)
            return stop
        limit = len(run.text) - held_back(run.text[self._sent :], stops)
        if near:
            limit = min(limit, run.sentence[1] if run.sentence is not None else self._sent)
        self._send(limit)
        return None

    def _end_text(self) -> None:
        assert self.run is not None
        if self.is_heard:
            self.run.close()
            self._send(len(self.run.text))
        self.run = None

    def _send(self, end: int) -> None:
        """Send the text of the run up to the character `end`."""
        assert self.run is not None
        if end > self._sent:
            self._tell(TextPiece(self.id, self.run.text[self._sent : end]))
            self._sent = end

    def _tell(self, event: Event) -> None:
        if self.is_heard:
            self.events.append(event)

    def _follow_image(self) -> None:
        done, total = len(self._codes), self.progress.image_tokens
        if done < total and done % self._grid[1] == 0:
            self._tell(ImageProgress(self.id, self.progress.images, list(self._codes), total, self._grid, self.codec))


def _prior(progress: Progress) -> list[int]:
    """Ids of the text that what is written now continues: of the answer, or in front of the gap."""
    v, prompt = progress.grammar.vocabulary, progress.request.prompt
    given = progress.request.answer_start
    start = len(prompt) if given is None else given
    end = len(prompt)
    if progress.state is State.TEXT_SPAN:
        start = v.opening_of(prompt) if given is None else given
        end = prompt.index(v.sentinel_id(progress.cursor.next_span - 1))
    last = max((frame.end for frame in v.pictures.frames(prompt[:end])), default=0)
    return [token for token in prompt[max(start, last) : end] if v.is_text(token)]
