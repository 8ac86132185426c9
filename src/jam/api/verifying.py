"""A proof of what a fused folder kept of its parents."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from jam import evaluation
from jam.api.documents import Given, read_all
from jam.api.loading import context_of, load, load_codec
from jam.checkpoints.devices import choose_device, choose_dtype
from jam.codec import Codec
from jam.data.prepare import encode_fitting
from jam.documents import Document, Image, Text
from jam.evaluation import Proof
from jam.evaluation.questions import NEW_IDS, QUESTIONS
from jam.tutorials.corpora import captioned_pictures, interleaved_tutorials, text_tutorials

TEXTS, CAPTIONS, LESSONS, SEED = 8, 4, 4, 11  # built-in documents


def verify(
    folder: str | Path,
    documents: Given | None = None,
    *,
    text: str | Path | None = None,
    image: str | Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    tolerance: float | None = None,
    answer_ids: int = NEW_IDS,
    allowed_media_path: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
    leave_out: Callable[[str], None] = lambda reason: None,
) -> Proof:
    """Run a fused folder and both parents on documents, and compare logits, tensors and answers.

    Args:
        documents: `Document` objects, or files of documents; None: built-in drawing lessons and pictures.
        text, image: folder or hub id of the parent; None: its place at the time of the fusion.
        device: device to compute on; None: a GPU if there is one.
        dtype: weights in memory: "float32", "bfloat16" or "float16"; None: float32 on the CPU, else as stored.
        tolerance: greatest difference of logits that passes; None: 0 if the fusion promises exactness.
        answer_ids: largest number of ids of an answer to each of ten built-in questions; 0: no questions.
        allowed_media_path: another folder that may hold pictures of files.
        say: is called with the current work, in words.
        leave_out: is called with the reason for each document that is longer than the model's context.

    Returns:
        The proof; its `verdict` says if the parents were kept.

    Raises:
        ValueError: `folder` is no fused folder, a parent is missing or has changed, or no document can be compared.
    """
    for name, value in (("tolerance", tolerance), ("answer_ids", answer_ids)):
        if value is not None and value < 0:
            raise ValueError(f"{name} is {value}; it must be 0 or more")
    device, chosen_dtype = choose_device(device), choose_dtype(dtype)
    codec, context = load_codec(folder, device), context_of(folder)
    if context is None:
        raise ValueError(f"{folder} has no config.json; fuse the parents again")
    left_out: list[str] = []
    found = built_in(codec) if documents is None else read_all(documents, allowed_media_path)
    encoded = list(encode_fitting(found, codec, context, left_out.append))
    for reason in left_out:
        leave_out(reason)
    if left_out and not encoded:
        raise ValueError("no document can be compared on; all of them are longer than the model's context")
    questions = {question: codec.encode_prompt(question) for question in QUESTIONS} if answer_ids else {}
    grammar = codec.grammar
    del codec  # its image tokenizer takes memory too
    return evaluation.verify(
        folder,
        encoded,
        grammar,
        lambda chosen: load(folder, device, chosen).joint,
        parents={"text": text, "image": image},
        device=device,
        dtype=chosen_dtype,
        tolerance=tolerance,
        questions=questions,
        new_ids=answer_ids,
        say=say,
    )


def built_in(codec: Codec) -> Iterator[Document]:
    """Drawing lessons, captioned pictures, and lessons with a picture after the first step.

    Without an image tokenizer a picture is random codes.
    """
    rng = random.Random(SEED)

    def picture(image: Image) -> Image:
        if codec.image_tokenizer is not None:
            return image
        return Image(codes=[rng.randrange(codec.vocabulary.image_size) for _ in range(codec.grammar.image_tokens)])

    for lesson in islice(text_tutorials(SEED), TEXTS):
        yield Document([Text("\n".join(lesson.texts))])
    for document in islice(captioned_pictures(SEED), CAPTIONS):
        yield Document([Text(document.texts[0]), picture(document.images[0])])
    for lesson in islice(interleaved_tutorials(SEED), LESSONS):
        question, first, *steps = lesson.texts
        yield Document([Text(f"{question}\n{first}"), picture(lesson.images[0]), Text("\n".join(steps))])
