"""What a person asks for and gets: pictures by number, budgets, stop strings, forced beginnings, clear refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image as PILImage

from jam.api.model import Model
from jam.codec import Codec
from jam.documents import Document, Image, Message, Text
from jam.generation import Engine, Finished, GenerationSettings, Request, TextPiece
from jam.generation.marks import ends_sentence
from jam.generation.sampling import Choices, penalise, sample
from jam.generation.text import TextRun
from jam.grammar import Grammar
from jam.vocabulary import Vocabulary
from support import tiny
from support.writing import ids_of, like, writer

QUESTION = "How do I draw it?"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return writer(tmp_path_factory.mktemp("writer") / "cross")


@pytest.fixture
def liked(model: Model) -> Model:
    """The same, for tests that change its likings."""
    yield model
    like(model)


# --- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("least", "most"), [(0, 0), (1, 1), (3, 3), (2, None), (0, 2), (1, 3)])
@pytest.mark.parametrize("liking", [-30.0, 8.0])
def test_the_number_of_pictures(liked: Model, least: int, most: int | None, liking: float) -> None:
    """Exact, at most, at least: for a model that would never draw, and for one that would not stop."""
    like(liked, picture=liking, end=6.0)
    prompts = [QUESTION, "a", Document(content=[Text("a"), Image(codes=[1, 2, 3, 4])])]
    for document in liked.generate(prompts, min_images=least, max_images=most, max_new_tokens=45):
        new = document.extra["images"]
        assert new >= least and (most is None or new <= most)
        assert len(document.answer if document.messages else document.content[2:]) >= new
        assert len(document.images) == new + (not document.messages)
        if liking < 0:
            assert new == least


def test_pictures_that_must_come_get_their_room_at_the_last_moment(liked: Model) -> None:
    """A model that would rather write text is interrupted for them, between two sentences."""
    like(liked, picture=-30.0, end=-30.0)
    document = liked.generate(QUESTION, min_images=3, max_new_tokens=60, seed=4)
    assert document.extra["images"] == 3 and document.extra["tokens"] > 20 + 3 * 6  # text for as long as there is room
    assert all(ends_sentence(text) for text in document.texts[1:])


# --- budgets ----------------------------------------------------------------------------------------------------------


def test_the_budget_ends_a_document_at_a_sentence_or_a_word_or_behind_a_picture(liked: Model) -> None:
    ends = set()
    for picture in (6.0, -30.0):
        like(liked, picture=picture, end=-30.0)
        for budget in range(1, 40, 5):
            document = liked.generate(QUESTION, max_new_tokens=budget, seed=budget)
            assert document.extra["finish_reason"] == "max_new_tokens" and document.extra["tokens"] <= budget
            last = document.answer[-1] if document.answer else None
            ends.add((type(last), document.extra["is_cut"]))
            assert document.extra["is_cut"] == (isinstance(last, Text) and not ends_sentence(last.text)), last
    assert ends >= {(Text, False), (Text, True), (Image, False)}


def test_what_a_stream_says_is_what_the_document_has(liked: Model) -> None:
    like(liked, end=-30.0)
    for seed in range(6):
        events = list(liked.stream(QUESTION, max_new_tokens=30, seed=seed, stop=["..."]))
        *pieces, last = [event for event in events if isinstance(event, TextPiece | Finished)]
        assert isinstance(last, Finished)
        assert "".join(piece.text for piece in pieces) == "".join(last.document.texts[1:])


def test_a_sentence_without_an_end_is_kept(liked: Model) -> None:
    """It is streamed while the budget is far; then its end is waited for, and does not come."""
    like(liked, picture=-30.0, end=-30.0, stop=-30.0, space=0.0)
    events = list(liked.stream("a", max_new_tokens=80, seed=1, top_k=1))
    said = "".join(event.text for event in events if isinstance(event, TextPiece))
    assert not any(mark in said for mark in ".!?\n"), "the test asks for a text without marks"
    assert events[-1].is_cut and [part.text for part in events[-1].document.answer] == [said]


def test_sentence_ends() -> None:
    for text in ("It is red.", "Is it? ", 'He said "yes."', "Wait!", "line\n", "很好。"):
        assert ends_sentence(text), text
    for text in ("It is", "3,", "Add a", ""):
        assert not ends_sentence(text), text
    tokenizer = tiny.text_tokenizer()
    run = TextRun(lambda ids: tokenizer.decode(ids))
    for token in ids_of(tiny.codec(), "Use 3.5 cm. Then 2"):
        run.add(token)
        run.read()
    run.close()
    assert run.sentence is not None and run.text[: run.sentence[1]] == "Use 3.5 cm."


@pytest.mark.parametrize("kind", ["bytes", "first", "always", "prepend"])
def test_text_comes_in_whole_characters(kind: str) -> None:
    from jam.codec.text import decode_text, encode_text

    tokenizer = tiny.text_tokenizer() if kind == "bytes" else tiny.space_tokenizer(kind)
    for text in ("très verts! 雨 and 🏠.", " leading", "a  b", "雨"):
        ids = encode_text(tokenizer, text)
        for prior in range(len(ids)):
            if "\ufffd" in decode_text(tokenizer, ids[:prior]):
                continue
            run, pieces = TextRun(lambda ids: decode_text(tokenizer, ids), ids[:prior]), []
            for token in ids[prior:]:
                before = len(run.text)
                run.add(token)
                run.read()
                pieces.append(run.text[before:])
                assert "\ufffd" not in run.text
            run.close()
            assert run.text == decode_text(tokenizer, ids)


# --- control ----------------------------------------------------------------------------------------------------------


def test_stop_strings(liked: Model) -> None:
    like(liked, end=-30.0)
    full = liked.generate(QUESTION, max_new_tokens=60, seed=3)
    text = full.answer[0].text
    stop = text[3:6]
    cut = liked.generate(QUESTION, max_new_tokens=60, seed=3, stop=["never there", stop])
    assert cut.extra["finish_reason"] == "stop"
    assert cut.answer[-1].text == text[: text.index(stop)]
    continued = liked.generate(Document(content=[Text(text[:8])]), max_new_tokens=60, seed=3, stop=[text[2:5]])
    assert continued.texts[0].startswith(text[:8])  # what was there before does not stop it


def test_stop_strings_wait_for_the_pictures_that_must_come(model: Model) -> None:
    for seed in range(4):
        made = model.generate(QUESTION, min_images=2, max_images=2, stop=["."], max_new_tokens=60, seed=seed)
        assert made.extra["images"] == 2
        assert not isinstance(made.answer[-1], Text) or "." not in made.answer[-1].text


def test_forced_beginnings(model: Model) -> None:
    picture = Image(codes=[5, 4, 3, 2])
    document = model.generate(QUESTION, begin="First draw", max_new_tokens=30, temperature=0.0)
    assert document.answer[0].text.startswith("First draw") and document.messages[0].content[0].text == QUESTION
    document = model.generate(QUESTION, begin=[Text("a"), picture], max_new_tokens=30)
    assert [type(part) for part in document.answer[:2]] == [Text, Image]
    assert document.answer[1].codes == picture.codes and document.answer[0].text == "a"
    document = model.generate(Document(content=[picture]), begin="First draw", max_new_tokens=30)
    assert document.texts[0].startswith("First draw")


def test_top_k_min_p_and_the_repetition_penalty() -> None:
    logits = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05]).log()
    uniform = (torch.arange(1000) + 0.5) / 1000

    def shares(top_p: float = 1.0, top_k: int = 0, min_p: float = 0.0) -> list[float]:
        full = torch.ones(1000)
        choices = Choices(full, full * top_p, (full * top_k).long(), full * min_p)
        return (sample(logits.expand(1000, -1), choices, uniform).bincount(minlength=5) / 1000).tolist()

    assert shares(top_k=2) == pytest.approx([4 / 7, 3 / 7, 0, 0, 0], abs=2e-3)
    assert shares(top_k=9) == shares() == pytest.approx([0.4, 0.3, 0.15, 0.1, 0.05], abs=2e-3)
    assert shares(top_k=3, top_p=0.8) == pytest.approx([4 / 7, 3 / 7, 0, 0, 0], abs=2e-3)  # of 0.85: 0.4 and 0.3
    assert shares(min_p=0.3) == pytest.approx([8 / 17, 6 / 17, 3 / 17, 0, 0], abs=2e-3)
    assert shares(top_k=1) == [1, 0, 0, 0, 0]
    values = torch.tensor([2.0, -2.0, 1.0])
    penalise(values, torch.tensor([0, 1]), 2.0)
    assert values.tolist() == [1.0, -4.0, 1.0]


def test_repetition_is_penalised_in_texts(liked: Model) -> None:
    like(liked, picture=-30.0, end=-30.0, stop=0.0, space=0.0)

    def different(penalty: float) -> int:
        prompt = liked.codec.encode_prompt(QUESTION)
        settings = GenerationSettings(40, temperature=0.0, repetition_penalty=penalty)
        return len(set(Engine(liked.joint).run([prompt], settings)[0].new_ids))

    assert different(1e9) > max(20, different(1.0))


def test_guidance_schedules() -> None:
    def at(**settings: object) -> list[float]:
        made = GenerationSettings(**settings)
        return [round(made.guidance_at(progress), 3) for progress in (0.0, 0.25, 0.5, 1.0)]

    assert at(guidance_scale=3.0) == [3.0] * 4
    assert at(guidance_scale=3.0, guidance_end=1.0, guidance_schedule="linear") == [3.0, 2.5, 2.0, 1.0]
    assert at(guidance_scale=1.0, guidance_end=3.0, guidance_schedule="cosine") == [1.0, 1.293, 2.0, 3.0]
    assert GenerationSettings(guidance_end=2.0, guidance_schedule="linear").is_guided


def test_a_schedule_is_followed_code_by_code(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    scales: list[float] = []
    from jam.generation import engine as module

    plain = module.guide
    monkeypatch.setattr(module, "guide", lambda one, two, scale: scales.append(float(scale)) or plain(one, two, scale))
    v = model.codec.vocabulary
    settings = GenerationSettings(5, guidance_scale=4.0, guidance_end=1.0, guidance_schedule="linear")
    Engine(model.joint).run([[*model.codec.encode_prompt("a"), v.break_id]], settings)
    assert scales == pytest.approx([4, 3, 2, 1])


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature is -1.0; it must be 0"),
        ({"top_p": 0}, "top_p is 0; it must be above 0"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_k": 1.5}, "top_k is 1.5, of type float; it must be a whole number"),
        ({"min_p": 2.0}, "min_p is 2.0; it must be from 0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0; it must be from 1e-09"),
        ({"seed": "7"}, "seed is '7', of type str; it must be a whole number"),
        ({"seed": 1.0}, "seed is 1.0, of type float"),
        ({"seed": None}, "seed is None; it must be a whole number"),
        ({"seed": -1}, "seed is -1; it must be from 0"),
        ({"seed": 2**32 + 1}, "seed is 4294967297; it must be from 0 to 2.32 - 1"),
        ({"temperature": True}, "temperature is True, of type bool; it must be a number"),
        ({"guidance_schedule": "square", "guidance_end": 1.0}, "'square'; choose one of constant, linear, cosine"),
        ({"guidance_schedule": "linear"}, "guidance_end None"),
        ({"guidance_end": 2.0}, "a constant one has none"),
        ({"min_images": 3, "max_images": 2}, "min_images is 3 and max_images 2"),
        ({"stop": "END"}, "it must be a list of strings"),
        ({"stop": [""]}, "that are not empty"),
        ({"stop": None}, "stop is None; it must be a list of strings"),
        ({"stop": 5}, "stop is 5; it must be a list of strings"),
        ({"image_grid": 5}, "image_grid is 5; it must be a height and a width"),
        ({"image_grid": [2, 2.5]}, "image_grid is .2, 2.5.; it must be a height and a width"),
        ({"temperature": 10**400}, "temperature is 1000*; it must be 0 .* to 1e.09"),
        ({"temperature": float("nan")}, "temperature is nan; it must be 0"),
        ({"guidance_scale": 1e39}, "guidance_scale is 1e.39; it must be from 0 to 1e.09"),
        ({"guidance_scale": float("inf")}, "guidance_scale is inf"),
        ({"top_k": 10**400}, "top_k is 1000*; it must be 0"),
        ({"max_images": 10_000}, "max_images is 10000; a picture takes 6 tokens, .* context of 96 holds 15"),
        ({"min_images": 10_000}, "min_images is 10000; .* ask for 15 or fewer"),
        ({"min_images": 12, "max_new_tokens": 30}, "into the 30 that are left .*; 5 would fit: ask for fewer"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be at least 1"),
    ],
)
def test_bad_requests_are_refused_before_anything_runs(model: Model, monkeypatch, settings: dict, message: str) -> None:
    monkeypatch.setattr(model.joint, "hidden", None)  # whatever runs, fails
    monkeypatch.setattr("jam.api.model.MEMORY_SHARE", 1e-9)
    with pytest.raises(ValueError, match=message):
        model.generate(QUESTION, **settings)


def test_a_prompt_that_needs_more_room_says_what_fits(model: Model) -> None:
    with pytest.raises(
        ValueError, match=r"the prompt has \d+ tokens and the model's context 96: .* may have 95 tokens"
    ):
        model.generate(20 * QUESTION)


def test_guidance_needs_image_tokens() -> None:
    tokenizer = tiny.text_tokenizer()
    vocabulary = Vocabulary(len(tokenizer), 0, tokenizer.eos_token_id, 8)
    codec = Codec(vocabulary, Grammar(vocabulary), tokenizer)
    joint = tiny.network("single", vocabulary)
    for settings in (GenerationSettings(guidance_scale=2.0), GenerationSettings(min_images=1)):
        with pytest.raises(ValueError, match="this model has no image tokens"):
            Engine(joint, codec).submit(Request(codec.encode_prompt("a"), settings))
    assert Engine(joint, codec).run([codec.encode_prompt("a")], GenerationSettings(5))[0].images == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 100), (2, 500), (50_000, 50_000)])
def test_pictures_of_impossible_sizes(model: Model, tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "picture.png"
    if size[0] < 1000:
        PILImage.new("RGB", size).save(path)
    else:
        path.write_bytes(png_header(*size))
    question = Document(messages=[Message("user", [Text("a"), Image(path=str(path))])])
    with pytest.raises(
        ValueError, match=r"picture .*(50000 x 50000|1 x 1|1 x 100|2 x 500|too large).* a side must have 2"
    ):
        model.generate(question)


def png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG file of this size: what is read before any pixel."""
    import struct
    import zlib

    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return head + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
