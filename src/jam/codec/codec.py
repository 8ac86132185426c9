"""Documents to ids and back: the interleaving of docs/method.md, section 3.

``</s> text <break> image <break> text ... </s>``; `<break>` toggles the modality, so an image that begins a document or
follows another image stands after an empty text. In a conversation the last answer is learnt, and everything before it
is its question: written by the text parent's chat template where the model has one, else with a newline at the end of
each turn but the last. A family's layout (`jam.layout`) frames pictures and questions in its own tokens instead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby, islice

import torch
from transformers import PreTrainedTokenizerBase

from jam.codec.chat_template import ChatTemplate
from jam.codec.encoded import Encoded
from jam.codec.images import ImageTokenizer
from jam.codec.text import decode_text, encode_text, tokenizer_hash
from jam.codec.turns import TURN_END, Template, Written
from jam.codec.writer import Codes, Writer
from jam.documents import Document, Image, Message, Part, Text
from jam.grammar import Grammar
from jam.layout import Grid
from jam.vocabulary import Vocabulary

PICTURES = 32  # tokenized at a time


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
        if self.image_tokenizer is not None and self.has_shapes:
            meaning += f" {self.image_tokenizer.info.area}"
        return hashlib.sha256(meaning.encode()).hexdigest()[:16]

    @cached_property
    def template(self) -> Template:
        """How questions are asked. Raises ValueError where the chat template is not the one the model was made with."""
        if self.vocabulary.chat_template is None:
            return Template.of_layout(self.vocabulary)
        return ChatTemplate.of(self.tokenizer, self.vocabulary)

    @property
    def has_shapes(self) -> bool:
        """Whether pictures may differ in shape: documents say it."""
        return self.vocabulary.pictures.writes_size

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
        return self._answered(self._writer(codes), document)

    def _answered(self, writer: Writer, document: Document, gaps: int | None = None) -> Encoded:
        """A whole document; `gaps`: the number of the first one that its answer may have."""
        turns = document.messages[:-1]
        writer.write(self.template.question(turns) if turns else self.vocabulary.begin_ids)
        start = writer.begin_text()
        earlier = self.template.answers_in(turns, writer.ids, partial(self._ids_of, writer.codes))
        writer.gaps = gaps
        answer = document.messages[-1].content if document.messages else document.content
        writer.write(self.template.answer(answer) if turns else answer)
        ids = [*writer.ids, self.template.end_id if turns else self.vocabulary.eos_id]
        return Encoded.of(ids, self.vocabulary, start, earlier)

    def put_in_front(self, documents: Sequence[Encoded], encoded: Encoded, weight: float = 1.0) -> Encoded:
        """A document after others, retrieved ones for example, which are learnt with a weight.

        Raises:
            ValueError: one of them is a conversation.
        """
        return encoded.behind(documents, self.vocabulary, weight, encode_text(self.tokenizer, TURN_END))

    def encode_prompt(self, prompt: str | Document, opens_image: bool = False, grid: Grid | None = None) -> list[int]:
        """The ids that generation continues, with the ids that open a document.

        A string or the messages of a conversation are a question, closed by a turn's end; the content of a document is
        its beginning, continued as it is.

        Args:
            opens_image: a picture comes next: end with what stands before its codes.
            grid: the picture's size, where documents say it (None: the usual one).

        Raises:
            ValueError: the prompt is empty, the tokenizer has no id for it, or the layout cannot write the size.
        """
        document = Document(messages=[Message("user", [Text(prompt)])]) if isinstance(prompt, str) else prompt
        if not any(not isinstance(part, Text) or part.text.strip() for part in document.parts):
            raise ValueError("the prompt is empty: give a question, the beginning of a document or a picture")
        writer = self._writer(self._tokenize([document]))
        if document.messages:
            writer.write(self.template.question(document.messages))
        else:
            writer.write([*self.vocabulary.begin_ids, *document.content])
        if len(writer.ids) <= self.vocabulary.opening_of(writer.ids):
            raise ValueError(f"the tokenizer {self.tokenizer.name_or_path} has no id for any letter of the prompt")
        if opens_image:
            writer.begin_text()
            writer.ids += self.vocabulary.pictures.write_opening(grid or self.grammar.grid)
        return writer.ids

    def encode_beginning(self, parts: Sequence[Part]) -> list[int]:
        """The ids of what an answer begins with, to follow the ids of its question."""
        document = Document(content=list(parts))
        writer = self._writer(self._tokenize([document]))
        writer.write([*([Text(self.template.lead)] if self.template.lead else []), *parts])
        return writer.ids

    def encode_gaps(self, document: Document) -> Encoded:
        """A document with gaps as CM3 masks it (docs/method.md, section 4): sentinels, closed by ``</s>``.

        A gap for a picture takes the place of a whole one. In a conversation, gaps are in the last answer.

        Raises:
            ValueError: there is no gap, or one in a question; a gap for a picture and a model without image tokens.
        """
        if not document.gaps:
            raise ValueError(
                f'{document.where}there is no gap to fill; mark it by {{"type": "gap", "modality": "text" or "image"}}'
            )
        if any(gap.modality == "image" for gap in document.gaps) and not self.vocabulary.image_size:
            raise ValueError(f"{document.where}a gap is for a picture, and the model has no image tokens")
        writer = self._writer(self._tokenize([document]))
        return self._answered(writer, document, gaps=0)

    def _writer(self, codes: Codes) -> Writer:
        return Writer(self.vocabulary, self.grammar, self.tokenizer, codes)

    def _ids_of(self, codes: Codes, parts: Sequence[Written]) -> list[int]:
        writer = self._writer(codes)
        writer.write(parts)
        return writer.ids

    def _tokenize(self, documents: Sequence[Document], failed: dict[int, ValueError] | None = None) -> Codes:
        """Codes of all pictures, read and tokenized some at a time; the same picture may be in several documents.

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
            for _, alike in groupby(batch, key=lambda one: one[1].shape):
                keys, stacked = zip(*alike, strict=True)
                encoded = self.image_tokenizer.encode_pixels(torch.stack(stacked))
                shape = (encoded.shape[1], encoded.shape[2])
                codes |= {key: (rows, shape) for key, rows in zip(keys, encoded.flatten(1).tolist(), strict=True)}
        return codes

    def _checked(self, image: Image) -> tuple[list[int], Grid]:
        """The picture's own codes. Raises ValueError if this model's pictures have another number of them."""
        assert image.codes is not None
        self._require_images(image)
        height, width = grid = image.grid if image.grid is not None and self.has_shapes else self.grammar.grid
        if len(image.codes) != height * width:
            raise ValueError(
                f"{image.where}a picture has {len(image.codes)} codes, this model's have {self.grammar.image_tokens}"
                + (", but for those that say their grid" if self.has_shapes else "")
            )
        return image.codes, grid

    def _pixels(self, image: Image) -> torch.Tensor:
        self._require_images(image)
        if self.image_tokenizer is None:
            raise ValueError(f"{image.where}a picture must be encoded, and there is no image tokenizer")
        if self.has_shapes and self.image_tokenizer.info.area is not None:
            return self.image_tokenizer.to_shaped_pixels(image.load(), self.vocabulary.pictures.unit)
        return self.image_tokenizer.to_pixels(image.load())

    def _require_images(self, image: Image) -> None:
        if not self.vocabulary.image_size:
            raise ValueError(f"{image.where}this document has a picture, and the model has no image tokens")

    def decode(self, ids: Sequence[int], question_end: int | None = None) -> Document:
        """Ids of a document, closed or not yet, back to a `Document`.

        With `question_end` the part before it becomes the user's message, without the template.

        Raises:
            ValueError: the ids break the grammar, hold sentinels (unmask them first) or an unfinished picture.
        """
        self.grammar.states(ids)
        sources = [i for i, token in enumerate(ids) if self.vocabulary.is_sentinel(token)]
        if sources:
            raise ValueError(f"a sentinel stands at position {sources[0]}: undo the masking before decoding")
        opening, end = self.vocabulary.opening_of(ids), len(ids)
        if end > max(opening, question_end or 0) and self.vocabulary.ends_document(ids[-1]):
            end -= 1
        if question_end is None or question_end <= opening:
            return Document(content=self._parts(ids[opening:end]))
        marked = self._written(ids[opening:question_end])
        return Document(
            messages=[
                Message("user", self.template.strip(marked)),
                Message("assistant", self.template.strip_answer(self._parts(ids[question_end:end]))),
            ]
        )

    def _parts(self, body: Sequence[int]) -> list[Part]:
        """Parts of ids; tokens of templates among them are left out."""
        return [part for part in self._written(body) if not isinstance(part, int)]

    def _written(self, body: Sequence[int]) -> list[Written]:
        """Texts, pictures, and the ids of a template's tokens; an empty text only after a picture's separator."""
        v, layout = self.vocabulary, self.vocabulary.pictures
        written: list[Written] = []
        images: list[Image] = []
        place = close = 0
        for frame in layout.frames(body):
            written += self._texts(body[place : frame.start])
            height, width = grid = frame.grid or self.grammar.grid
            codes = v.to_codes([token for token in body[frame.first : frame.close] if v.is_image(token)])
            if len(codes) < height * width or frame.end - frame.close < len(layout.closing):
                raise ValueError(f"a picture is unfinished: it has {len(codes)} of {height * width} codes")
            images.append(Image(codes=codes, grid=grid if grid != self.grammar.grid else None))
            written.append(images[-1])
            place, close = frame.end, frame.close
        written += self._texts(body[place:])
        if layout.separator and close < place == len(body):
            written.append(Text(""))
        self._draw(images)
        return written

    def _texts(self, run: Sequence[int]) -> list[Written]:
        """Texts between the ids of a template's tokens, and these."""
        special = self.template.marks
        written: list[Written] = []
        for marked, part in groupby(run, key=special.__contains__):
            ids = [int(token) for token in part]
            written += ids if marked else [Text(decode_text(self.tokenizer, ids))]
        return written

    def _draw(self, images: list[Image]) -> None:
        """Give pixels to pictures that are codes."""
        if self.image_tokenizer is None:
            return
        shapes = [image.grid or self.image_tokenizer.info.grid for image in images]
        for height, width in dict.fromkeys(shapes):
            alike = [image for image, shape in zip(images, shapes, strict=True) if shape == (height, width)]
            codes = torch.tensor([image.codes for image in alike]).reshape(-1, height, width)
            for image, picture in zip(alike, self.image_tokenizer.decode(codes), strict=True):
                image.pixels = picture
