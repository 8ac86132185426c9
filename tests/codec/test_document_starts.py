"""Documents begin as the text parent's tokenizer begins a text, and end apart from that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tokenizers import processors
from transformers import AutoModelForCausalLM, AutoTokenizer

import jam
from jam import cm3
from jam.codec import Codec
from jam.data.examples import PLAIN, Objective, draw_spans, make_example
from jam.data.split import split
from jam.documents import Document, Image, Text
from jam.evaluation.samples import pictures_of, text_behind_pictures, text_of
from jam.fusion import FuseConfig, fuse
from jam.fusion.document_layout import opening_of
from jam.grammar import Grammar, State
from jam.vocabulary import Vocabulary
from support import tiny
from support.chat_parents import fused

STORIES = Path(__file__).parents[3] / "shared" / "weights" / "stories260K"
BUILT_IN = Path(jam.__file__).parent / "tutorials" / "parents"
STORY = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."


def codec(begin: tuple[int, ...] | None) -> Codec:
    words = tiny.text_tokenizer()
    v = Vocabulary(len(words), tiny.CODES, words.eos_token_id, 8, begin=begin)
    return Codec(v, Grammar(v, tiny.GRID), words)


BEGINNINGS = pytest.mark.parametrize("begin", [None, (), (7,), (7, 9)], ids=["eos", "nothing", "bos", "two"])
PICTURE = Image(codes=[1, 2, 3, 4])


@BEGINNINGS
def test_documents_come_back(begin: tuple[int, ...] | None) -> None:
    made = codec(begin)
    v = made.vocabulary
    for content in ([Text("First draw.")], [PICTURE], [PICTURE, Text("a"), PICTURE, PICTURE], [Text("a"), PICTURE]):
        encoded = made.encode(Document(content))
        opening = (0,) if begin is None else begin
        assert tuple(encoded.ids[: len(opening)]) == opening and encoded.main_start == len(opening)
        assert encoded.ids[-1] == v.eos_id and encoded.ids[len(opening)] != v.eos_id
        back = made.decode(encoded.ids)
        assert [part if isinstance(part, Text) else part.codes for part in back.content] == [
            part if isinstance(part, Text) else part.codes for part in content
        ]
        prompt = made.encode_prompt(Document(content))
        assert prompt == encoded.ids[:-1]
    assert v.pictures.unconditional == (*opening, v.sentinel_id(0))


@BEGINNINGS
def test_every_id_behind_the_first_is_learnt(begin: tuple[int, ...] | None) -> None:
    made, rng = codec(begin), np.random.default_rng(0)
    document = made.encode(Document([Text("First draw a red house."), PICTURE, Text("Then, 2 trees")]))
    plain = make_example(document, made.grammar, PLAIN, rng)
    assert len(plain) == len(document.ids) - 1 and plain.weights[max(0, document.main_start - 1) :].all()
    masked = [draw_spans(document, made.vocabulary, Objective(unconditional_rate=0.5), rng) for _ in range(100)]
    assert any(spans and spans[0][0] == document.main_start for spans in masked)
    for spans in masked:
        ids = cm3.mask(document.ids, spans, made.vocabulary)
        made.grammar.states(ids)
        assert cm3.unmask(ids, made.vocabulary) == document.ids


@BEGINNINGS
def test_pieces_begin_alike(begin: tuple[int, ...] | None) -> None:
    made = codec(begin)
    document = made.encode(Document([Text("First draw a red house. " * 4), PICTURE, Text("Then, 2 trees")]))
    pieces = split(document, 20, made.vocabulary)
    assert len(pieces) > 2
    for piece in pieces:
        assert made.vocabulary.opening_of(piece.ids) == piece.main_start and len(piece.ids) <= 20
        assert State.CLOSED not in made.grammar.states(piece.ids)
    assert made.decode(document.ids).images[0].codes == PICTURE.codes


@BEGINNINGS
def test_nothing_is_measured_before_the_first_id(begin: tuple[int, ...] | None) -> None:
    made = codec(begin)
    document = made.encode(Document([PICTURE, Text("a red house"), PICTURE]))
    samples = [text_of(document.ids, made.grammar, document.main_start)]
    samples += [pictures_of(document.ids, made.grammar, document.main_start)]
    samples += text_behind_pictures(document.ids, made.grammar, document.main_start) or ()
    assert len(samples) == 4
    for sample in samples:
        assert sample is not None and sample.at.min() >= 0 and sample.at.max() < len(sample.inputs)


def test_another_beginning_is_refused() -> None:
    made = codec((7, 9))
    with pytest.raises(ValueError, match="must begin with <text:7>, <text:9>"):
        made.decode([0, 12, 0])
    with pytest.raises(ValueError, match="begin has the id 300, which is none of the ids of text"):
        codec((300,))


@pytest.mark.parametrize(
    ("single", "expected"), [("$A", ()), ("<a> $A", (1,)), ("<a> <b> $A", (1, 2)), ("$A <b>", ()), ("<a> $A <b>", (1,))]
)
def test_how_a_tokenizer_begins(single: str, expected: tuple[int, ...]) -> None:
    words = tiny.text_tokenizer()
    words.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[("<a>", 1), ("<b>", 2)]
    )
    assert opening_of(words) == expected


@pytest.mark.parametrize("kind", ["gemma3", "llama3"])
def test_a_parent_with_a_bos_has_its_own_logits(kind: str, tmp_path: Path) -> None:
    """The fused model reads a text as the parent's own tokenizer writes it, and its logits are the parent's."""
    parent, plan = fused(tmp_path, kind)
    model, words = jam.load(tmp_path / "out", "cpu"), AutoTokenizer.from_pretrained(tmp_path / "text")
    v = plan.vocabulary
    assert v.begin_ids == (words.bos_token_id,) and v.begin_ids[0] not in v.end_ids
    ids = model.codec.encode(Document([Text("draw the red house")])).ids
    assert ids == [*words("draw the red house").input_ids, words.eos_token_id]
    with torch.inference_mode():
        theirs = parent(torch.tensor([ids])).logits[0]
        hidden = model.joint.hidden(torch.tensor([ids]))[0]
        ours = model.joint.logits(hidden, torch.zeros(len(ids), dtype=torch.long))[:, : theirs.shape[1]]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.skipif(not STORIES.is_dir(), reason="the weights of stories260K are not beside the repository")
def test_a_trained_parent_keeps_its_perplexity(tmp_path: Path) -> None:
    """stories260K behind its BOS: the same perplexity as by `transformers`; behind its EOS it would be far worse."""
    fuse(FuseConfig(text=str(STORIES), image=str(BUILT_IN / "image"), out=str(tmp_path / "out")))
    model = jam.load(tmp_path / "out", "cpu")
    words, parent = AutoTokenizer.from_pretrained(STORIES), AutoModelForCausalLM.from_pretrained(STORIES).eval()

    def perplexity(logits_of: Any, ids: list[int]) -> float:
        with torch.inference_mode():
            logits = logits_of(torch.tensor([ids]))[:-1, : len(words)]
            return float(F.cross_entropy(logits.double(), torch.tensor(ids[1:])).exp())

    def joint(ids: torch.Tensor) -> torch.Tensor:
        hidden = model.joint.hidden(ids)[0]
        return model.joint.logits(hidden, torch.zeros(len(hidden), dtype=torch.long))

    def alone(ids: torch.Tensor) -> torch.Tensor:
        return parent(ids).logits[0]

    ids = model.codec.encode(Document([Text(STORY)])).ids
    assert ids[:-1] == words(STORY).input_ids
    own = perplexity(alone, ids)
    assert perplexity(joint, ids) == own
    assert perplexity(alone, [words.eos_token_id, *ids[1:]]) > 1.05 * own
