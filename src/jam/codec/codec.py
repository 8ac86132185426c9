"""Documents to ids and back: the interleaving of REFERENCE section 3.

``</s> text <break> image <break> text ... </s>``; `<break>` toggles the modality, so an image that begins a document or
follows another image stands behind an empty text. Turns of a conversation are joined by a newline at the end of each
turn but the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from jam.codec.images import ImageTokenizer
from jam.codec.text import decode_text, encode_text
from jam.documents import Document, Image, Message, Part, Text
from jam.grammar import Grammar
from jam.vocabulary import Vocabulary

TURN_END = "\n"


@dataclass(frozen=True)
class Encoded:
    """One document as ids. `answer_start`: index of the first id of the last assistant turn (1: no question)."""

    ids: list[int]
    answer_start: int = 1


@dataclass
class Codec:
    """Encodes and decodes for one model. `image_tokenizer` is None for a model without image tokens."""

    vocabulary: Vocabulary
    grammar: Grammar
    tokenizer: PreTrainedTokenizerBase
    image_tokenizer: ImageTokenizer | None = None

    def __post_init__(self) -> None:
        if self.image_tokenizer is None:
            return
        info = self.image_tokenizer.info
        if info.codebook_size != self.vocabulary.image_size:
            raise ValueError(
                f"the image tokenizer has {info.codebook_size} codes, the vocabulary {self.vocabulary.image_size} image ids"
            )
        if info.grid[0] * info.grid[1] != self.grammar.image_tokens:
            raise ValueError(f"the image tokenizer has a grid of {info.grid}, the grammar {self.grammar.image_tokens} tokens")

    def encode(self, document: Document) -> Encoded:
        """A whole document, with its closing ``</s>``. Raises ValueError if it has pictures and the model does not."""
        turns = document.messages or [Message("assistant", document.content)]
        ids = [self.vocabulary.eos_id]
        answer_start = 1
        self.tokenize_images([document])
        writer = _Writer(self, ids)
        for index, turn in enumerate(turns):
            if index == len(turns) - 1 and turn.role == "assistant" and index:
                answer_start = writer.begin_text()
            writer.write(turn.content)
            if index < len(turns) - 1:
                writer.write([Text(TURN_END)])
        ids.append(self.vocabulary.eos_id)
        return Encoded(ids, answer_start)

    def encode_prompt(self, prompt: str | Document) -> list[int]:
        """Opening ``</s>``, the prompt and a turn's end: what an answer is generated after.

        Raises:
            ValueError: the prompt is empty.
        """
        document = Document(content=[Text(prompt)]) if isinstance(prompt, str) else prompt
        if not any(isinstance(part, Image) or part.text.strip() for part in document.parts):
            raise ValueError("the prompt is empty: give a question, the beginning of a document or a picture")
        ids = [self.vocabulary.eos_id]
        self.tokenize_images([document])
        writer = _Writer(self, ids)
        turns = document.messages or [Message("user", document.content)]
        for turn in turns:
            writer.write([*turn.content, Text(TURN_END)])
        return ids

    def tokenize_images(self, documents: Sequence[Document]) -> None:
        """Give codes to the pictures of all these documents, in one batch; `encode` does it for one document."""
        self._tokenize([part for document in documents for part in document.parts if isinstance(part, Image)])

    def _tokenize(self, images: Sequence[Image]) -> None:
        if images and not self.vocabulary.image_size:
            raise ValueError(f"{images[0].where}this document has a picture, and the model has no image tokens")
        for image in images:
            if image.codes is not None and len(image.codes) != self.grammar.image_tokens:
                raise ValueError(
                    f"{image.where}a picture has {len(image.codes)} codes, this model's have {self.grammar.image_tokens}"
                )
        missing = [image for image in images if image.codes is None]
        if not missing:
            return
        if self.image_tokenizer is None:
            raise ValueError(f"{missing[0].where}a picture must be encoded, and there is no image tokenizer")
        encoded = self.image_tokenizer.encode([image.load() for image in missing])
        for image, codes in zip(missing, encoded.flatten(1).tolist(), strict=True):
            image.codes = codes

    def decode(self, ids: Sequence[int], answer_start: int = 1) -> Document:
        """Ids of a document, closed by ``</s>`` or not yet, back to a `Document`.

        With `answer_start` the part before it becomes the user's message, without the turn's end.

        Raises:
            ValueError: the ids break the grammar, or hold sentinels (unmask them first).
        """
        states = self.grammar.states(ids)
        sources = [i for i, token in enumerate(ids) if self.vocabulary.is_sentinel(token)]
        if sources:
            raise ValueError(f"a sentinel stands at position {sources[0]}: undo the masking before decoding")
        closed = len(states) > 1 and ids[-1] == self.vocabulary.eos_id
        body = list(ids[1 : len(ids) - closed])
        if answer_start <= 1:
            return Document(content=self._parts(body))
        question, answer = self._parts(body[: answer_start - 1]), self._parts(body[answer_start - 1 :])
        if question and isinstance(question[-1], Text):
            question[-1] = Text(question[-1].text.removesuffix(TURN_END))
            if not question[-1].text:
                question.pop()
        return Document(messages=[Message("user", question), Message("assistant", answer)])

    def _parts(self, body: Sequence[int]) -> list[Part]:
        parts: list[Part] = []
        run: list[int] = []

        def flush() -> None:
            if run and self.vocabulary.is_image(run[0]):
                parts.append(Image(codes=self.vocabulary.to_codes(run)))
            elif run:
                parts.append(Text(decode_text(self.tokenizer, run)))
            run.clear()

        for token in body:
            if token == self.vocabulary.break_id:
                flush()
            else:
                run.append(int(token))
        flush()
        self._draw([part for part in parts if isinstance(part, Image)])
        return parts

    def _draw(self, images: list[Image]) -> None:
        """Give pixels to pictures that are codes."""
        if images and self.image_tokenizer is not None:
            height, width = self.image_tokenizer.info.grid
            codes = torch.tensor([image.codes for image in images]).reshape(-1, height, width)
            for image, picture in zip(images, self.image_tokenizer.decode(codes), strict=True):
                image.pixels = picture


class _Writer:
    """Appends parts to ids and sets `<break>` where the modality changes."""

    def __init__(self, codec: Codec, ids: list[int]) -> None:
        self.codec, self.ids = codec, ids
        self.after_image = False

    def begin_text(self) -> int:
        """Close an open image; returns the index where the next part begins."""
        if self.after_image:
            self.ids.append(self.codec.vocabulary.break_id)
            self.after_image = False
        return len(self.ids)

    def write(self, parts: Sequence[Part]) -> None:
        vocabulary = self.codec.vocabulary
        for part in parts:
            if isinstance(part, Text):
                if text := encode_text(self.codec.tokenizer, part.text):
                    self.begin_text()
                    self.ids.extend(text)
            else:
                self.begin_text()
                self.ids.append(vocabulary.break_id)
                assert part.codes is not None  # `tokenize_images` came before
                self.ids.extend(vocabulary.to_image_ids(part.codes))
                self.after_image = True
