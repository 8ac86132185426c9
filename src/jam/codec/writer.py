"""Parts of a document, one after the other, to ids."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from transformers import PreTrainedTokenizerBase

from jam.codec.text import encode_text
from jam.codec.turns import Written
from jam.documents import Gap, Text
from jam.grammar import Grammar
from jam.layout import Grid
from jam.vocabulary import Vocabulary

Codes = dict[int, tuple[list[int], Grid]]  # codes of pictures and their shape, by id(picture)


class Writer:
    """Appends parts to ids, and sets `<break>` or frames where the modality changes."""

    def __init__(
        self, vocabulary: Vocabulary, grammar: Grammar, tokenizer: PreTrainedTokenizerBase, codes: Codes
    ) -> None:
        self.vocabulary, self.grammar, self.tokenizer, self.codes = vocabulary, grammar, tokenizer, codes
        self.ids: list[int] = []
        self.after_image = False  # the layout's separator comes next, if there is more
        self.gaps: int | None = None  # so many so far; None: there must be none

    def begin_text(self) -> int:
        """Separate what follows from an image; returns the index where the next part begins."""
        if self.after_image:
            self.ids += self.vocabulary.pictures.separator
            self.after_image = False
        return len(self.ids)

    def write(self, parts: Sequence[Written]) -> None:
        """Neighbouring texts are joined before they are tokenized, so that what is read back gives the same ids."""
        for kind, run in groupby(parts, key=type):
            if kind is Text:
                self.begin_text()
                self.ids += self._text("".join(part.text for part in run if isinstance(part, Text)))
                continue
            for part in run:
                self.begin_text()
                if isinstance(part, int):
                    self._refuse_image_names([part], "a question")
                    self.ids.append(part)
                    continue
                if isinstance(part, Gap):
                    self._gap(part)
                    continue
                self._picture(*self.codes[id(part)])

    def _picture(self, codes: list[int], grid: Grid) -> None:
        self.ids += self.vocabulary.pictures.write(self.vocabulary.to_image_ids(codes), grid)
        self.after_image = True

    def _gap(self, gap: Gap) -> None:
        if self.gaps is None:
            raise ValueError("a gap stands where there must be none; fill it first (jam fill), in the last answer only")
        layout, grid = self.vocabulary.pictures, self.grammar.grid
        sentinel = self.vocabulary.sentinel_id(self.gaps)
        self.gaps += 1
        if gap.modality == "text":
            self.ids.append(sentinel)
            return
        behind = layout.body(grid)[len(layout.rows(grid)) :].tolist()
        self.ids += [*layout.write_opening(grid), sentinel, *behind]
        self.after_image = True

    def _text(self, text: str) -> list[int]:
        ids = encode_text(self.tokenizer, text)
        end = next((token for token in ids if self.vocabulary.ends_document(token)), None)
        if end is not None:
            name = self.tokenizer.convert_ids_to_tokens(end)
            raise ValueError(f"the tokenizer reads {name}, the end of a document, out of the text {text!r:.80}")
        self._refuse_image_names(ids, f"the text {text!r:.80}")
        return ids

    def _refuse_image_names(self, ids: Sequence[int], read: str) -> None:
        named = next((token for token in ids if self.vocabulary.is_image_name(token)), None)
        if named is not None:
            name = self.tokenizer.convert_ids_to_tokens(named)
            raise ValueError(
                f"the tokenizer reads {name!r}, its name of an image code, out of {read}; write the "
                "name otherwise, or give the picture as one"
            )
