"""Documents to ids and back: the interleaving of docs/method.md, section 3.

``</s> text <break> image <break> text ... </s>``; `<break>` toggles the modality, so an image that begins a document or
follows another image stands behind an empty text. Turns of a conversation are joined by a newline at the end of each
turn but the last; of a conversation the last answer is learnt, and everything before it is its question.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, islice, pairwise

import torch
from transformers import PreTrainedTokenizerBase

from jam.codec.images import ImageTokenizer
from jam.codec.text import decode_text, encode_text, tokenizer_hash
from jam.documents import Document, Image, Message, Part, Text
from jam.grammar import Grammar
from jam.vocabulary import Vocabulary

TURN_END = "\n"
PICTURES = 32  # tokenized at a time

Codes = dict[int, list[int]]  # codes of pictures by id(picture)


@dataclass(frozen=True)
class Encoded:
    """One document as ids. `answer_start`: index of the first id of the last assistant turn (1: no question).

    What stands before it is read and not learnt: earlier answers of the conversation too.
    """

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
                f"the image tokenizer has {info.codebook_size} codes, "
                f"the vocabulary {self.vocabulary.image_size} image ids"
            )
        if info.grid[0] * info.grid[1] != self.grammar.image_tokens:
            raise ValueError(
                f"the image tokenizer has a grid of {info.grid}, the grammar {self.grammar.image_tokens} tokens"
            )

    @cached_property
    def fingerprint(self) -> str:
        """Identifies what ids mean, beyond the sizes of `Vocabulary.hash`: both tokenizers and the number of codes."""
        images = self.image_tokenizer.hash() if self.image_tokenizer is not None else ""
        meaning = f"{tokenizer_hash(self.tokenizer)} {images} {self.grammar.image_tokens}"
        return hashlib.sha256(meaning.encode()).hexdigest()[:16]

    def encode(self, document: Document) -> Encoded:
        """A whole document, with its closing ``</s>``.

        Raises:
            ValueError: it has pictures and the model has no image tokens, or a conversation ends with a question.
        """
        return self.encode_batch([document])[0]

    def encode_batch(self, documents: Sequence[Document]) -> list[Encoded]:
        """As `encode`, with the pictures of all documents tokenized together."""
        encoded = self.encode_each(documents)
        for one in encoded:
            if isinstance(one, ValueError):
                raise one
        return [one for one in encoded if isinstance(one, Encoded)]

    def encode_each(self, documents: Sequence[Document]) -> list[Encoded | ValueError]:
        """As `encode_batch`, with the error in the place of a document that cannot be encoded."""
        failed: dict[int, ValueError] = {}
        codes = self._tokenize(documents, failed)
        results: list[Encoded | ValueError] = []
        for number, document in enumerate(documents):
            try:
                results.append(failed[number] if number in failed else self._encode(document, codes))
            except ValueError as error:
                results.append(error)
        return results

    def _encode(self, document: Document, codes: Codes) -> Encoded:
        if document.messages and document.messages[-1].role != "assistant":
            raise ValueError(
                f"{document.where}the last message is of role {document.messages[-1].role!r}; "
                "a conversation to learn from ends with the assistant's answer"
            )
        writer = _Writer(self, codes)
        if len(document.messages) > 1:
            writer.write(_question(document.messages[:-1]))
        answer_start = writer.begin_text()
        writer.write(document.answer)
        return Encoded([*writer.ids, self.vocabulary.eos_id], answer_start)

    def encode_prompt(self, prompt: str | Document) -> list[int]:
        """The ids that generation goes on from, opened by ``</s>``.

        A string or the messages of a conversation are a question, closed by a turn's end; the content of a document is
        its beginning, continued as it is.

        Raises:
            ValueError: the prompt is empty.
        """
        document = Document(messages=[Message("user", [Text(prompt)])]) if isinstance(prompt, str) else prompt
        if not any(isinstance(part, Image) or part.text.strip() for part in document.parts):
            raise ValueError("the prompt is empty: give a question, the beginning of a document or a picture")
        writer = _Writer(self, self._tokenize([document]))
        writer.write(_question(document.messages) if document.messages else document.content)
        return writer.ids

    def _tokenize(self, documents: Sequence[Document], failed: dict[int, ValueError] | None = None) -> Codes:
        """Codes of all pictures, read and tokenized some at a time; the same picture may lie in several documents.

        Args:
            failed: takes the error of a document with a picture that cannot be used, by its number; None: it is raised.
        """
        codes: Codes = {}

        def pixels() -> Iterator[tuple[int, torch.Tensor]]:
            for number, document in enumerate(documents):
                try:
                    for image in document.images:
                        if image.codes is not None:
                            codes[id(image)] = self._checked(image)
                        else:
                            yield id(image), self._pixels(image)
                except ValueError as error:
                    if failed is None:
                        raise
                    failed[number] = error

        stream = pixels()
        while batch := list(islice(stream, PICTURES)):
            assert self.image_tokenizer is not None
            encoded = self.image_tokenizer.encode_pixels(torch.stack([one for _, one in batch]))
            codes |= zip((key for key, _ in batch), encoded.flatten(1).tolist(), strict=True)
        return codes

    def _checked(self, image: Image) -> list[int]:
        """The picture's own codes. Raises ValueError if this model's pictures have another number of them."""
        assert image.codes is not None
        if not self.vocabulary.image_size:
            raise ValueError(f"{image.where}this document has a picture, and the model has no image tokens")
        if len(image.codes) != self.grammar.image_tokens:
            raise ValueError(
                f"{image.where}a picture has {len(image.codes)} codes, this model's have {self.grammar.image_tokens}"
            )
        return image.codes

    def _pixels(self, image: Image) -> torch.Tensor:
        if not self.vocabulary.image_size:
            raise ValueError(f"{image.where}this document has a picture, and the model has no image tokens")
        if self.image_tokenizer is None:
            raise ValueError(f"{image.where}a picture must be encoded, and there is no image tokenizer")
        return self.image_tokenizer.to_pixels(image.load())

    def decode(self, ids: Sequence[int], answer_start: int = 1) -> Document:
        """Ids of a document, closed by ``</s>`` or not yet, back to a `Document`.

        With `answer_start` the part before it becomes the user's message, without the turn's end.

        Raises:
            ValueError: the ids break the grammar, hold sentinels (unmask them first) or an unfinished picture.
        """
        self.grammar.states(ids)
        sources = [i for i, token in enumerate(ids) if self.vocabulary.is_sentinel(token)]
        if sources:
            raise ValueError(f"a sentinel stands at position {sources[0]}: undo the masking before decoding")
        closed = len(ids) > 1 and ids[-1] == self.vocabulary.eos_id
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
        """Parts of ids between the frames. Runs of odd number are images; of the empty texts only a last one counts."""
        v = self.vocabulary
        edges = [-1, *(place for place, token in enumerate(body) if token == v.break_id), len(body)]
        parts: list[Part] = []
        for number, (left, right) in enumerate(pairwise(edges)):
            run = [int(token) for token in body[left + 1 : right]]
            if number % 2:
                if len(run) < self.grammar.image_tokens:
                    raise ValueError(f"a picture is unfinished: it has {len(run)} of {self.grammar.image_tokens} codes")
                parts.append(Image(codes=v.to_codes(run)))
            elif run or (number and right == len(body)):
                parts.append(Text(decode_text(self.tokenizer, run)))
        self._draw([part for part in parts if isinstance(part, Image)])
        return parts

    def _draw(self, images: list[Image]) -> None:
        """Give pixels to pictures that are codes."""
        if images and self.image_tokenizer is not None:
            height, width = self.image_tokenizer.info.grid
            codes = torch.tensor([image.codes for image in images]).reshape(-1, height, width)
            for image, picture in zip(images, self.image_tokenizer.decode(codes), strict=True):
                image.pixels = picture


def _question(turns: Sequence[Message]) -> list[Part]:
    """The turns before an answer, each with its end."""
    return [part for turn in turns for part in (*turn.content, Text(TURN_END))]


class _Writer:
    """Appends parts to ids and sets `<break>` where the modality changes."""

    def __init__(self, codec: Codec, codes: Codes) -> None:
        self.codec, self.codes = codec, codes
        self.ids = [codec.vocabulary.eos_id]
        self.after_image = False

    def begin_text(self) -> int:
        """Close an open image; returns the index where the next part begins."""
        if self.after_image:
            self.ids.append(self.codec.vocabulary.break_id)
            self.after_image = False
        return len(self.ids)

    def write(self, parts: Sequence[Part]) -> None:
        """Neighbouring texts are joined before they are tokenized, so that what is read back gives the same ids."""
        vocabulary = self.codec.vocabulary
        for is_image, run in groupby(parts, key=lambda part: isinstance(part, Image)):
            if not is_image:
                self.begin_text()
                self.ids += self._text("".join(part.text for part in run if isinstance(part, Text)))
                continue
            for part in run:
                self.begin_text()
                self.ids += [vocabulary.break_id, *vocabulary.to_image_ids(self.codes[id(part)])]
                self.after_image = True

    def _text(self, text: str) -> list[int]:
        ids = encode_text(self.codec.tokenizer, text)
        if self.codec.vocabulary.eos_id in ids:
            raise ValueError(f"the tokenizer reads </s>, the end of a document, out of the text {text!r:.80}")
        named = next((token for token in ids if self.codec.vocabulary.is_image_name(token)), None)
        if named is not None:
            name = self.codec.tokenizer.convert_ids_to_tokens(named)
            raise ValueError(
                f"the tokenizer reads {name!r}, its name of an image code, out of the text {text!r:.80}; write the "
                "name otherwise, or give the picture as one"
            )
        return ids
