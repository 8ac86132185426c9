# ruff: noqa: RUF001
"""Answers that a limit cuts: behind a sentence in any script, else behind a word; and what tells that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import regex
import torch

from jam.api.model import Model
from jam.cli import main
from jam.documents import Document, Gap, Image, Text, to_html, to_markdown
from jam.generation import Finished, TextPiece
from jam.generation.marks import ends_sentence, surely_ends_sentence, up_to_word, word_ends
from jam.generation.text import SENTENCE_ROOM, TextRun
from support import tiny
from support.writing import ids_of, writer

HINDI = "एक समय की बात है एक छोटा लाल घर था"
URDU = "ایک دفعہ کا ذکر ہے کہ ایک سرخ گھر تھا"
THAI = "กาลครั้งหนึ่งนานมาแล้วมีบ้านสีแดงหลังเล็ก"
CHINESE = "从前有一座红色的小房子"
JAPANESE = "むかしむかし赤いスープの家"
KHMER = "កាលពីព្រេងនាយមានផ្ទះក្រហម"
KOREAN = "옛날 옛적에 빨간 집이"
ENGLISH = "Once upon a time there was a well-known red house"
SCRIPTS = [HINDI, URDU, THAI, CHINESE, JAPANESE, KHMER, KOREAN, ENGLISH]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return writer(tmp_path_factory.mktemp("writer") / "cross", context=700)


def answered(
    model: Model, ids: list[int], monkeypatch: pytest.MonkeyPatch, begin: str = "", **settings: Any
) -> tuple[Document, Finished, str]:
    """The document of an answer of these ids, as `generate` and as `stream` gives it, and what the stream said."""

    def script() -> None:
        left = iter(ids)
        monkeypatch.setattr("jam.generation.engine.sample", lambda *_: torch.tensor([next(left)]))

    script()
    events = list(model.stream("a", begin, **settings))
    script()
    document, last = model.generate("a", begin, **settings), events[-1]
    assert isinstance(last, Finished) and last.document == document
    return document, last, "".join(event.text for event in events if isinstance(event, TextPiece))


# --- marks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "यह लाल है।",  # Devanagari, and the double danda of verses
        "यह लाल है॥",
        "یہ سرخ ہے۔",  # Urdu
        "هل هو أحمر؟",  # Arabic
        "هل هو أحمر؟»",
        "ቤቱ ቀይ ነው።",  # Ethiopic
        "ቤቱ ቀይ ነው፧",
        "Տունը կարմիր է։",  # Armenian
        "အိမ်သည် နီသည်။",  # Burmese
        "ផ្ទះក្រហម។",  # Khmer
        "它是红色的。」",
        "它是红色的！？",
        "ﾊｲ｡",  # half width
        "Ｙｅｓ．",  # full width
        "Really?!",
        "Really‽",
        "He said so.”",
        "„Er sagte so.“",
        "(It is red.)",
        "It goes on…",
        "It goes on...\u200f",  # and a mark of direction
        "a line\u2028",
    ],
)
def test_a_sentence_ends(text: str) -> None:
    assert ends_sentence(text) and ends_sentence(text + " ")


@pytest.mark.parametrize(
    "text", ["", "यह लाल", "這是，", "ما هذا،", "a: b;", "3,", "Add a.b", "它是红色的。「", "He said. (", "Ի՞նչ"]
)
def test_no_sentence_ends(text: str) -> None:
    assert not ends_sentence(text)


def test_marks_that_may_go_on_wait_for_white_space() -> None:
    for text in ("Use 3.", "３．", "What?", "Wait…", '"Yes."'):
        assert not surely_ends_sentence(text) and surely_ends_sentence(text + " "), text
    for text in ("है।", "是。", "؟"):
        assert surely_ends_sentence(text)


def test_words_end() -> None:
    """The place of each mark `|`, and no other, is the end of a word."""
    for marked in (
        "red|,| blue| -and",
        "don't| we",
        "it| is| 3.5| of",
        "He| said|,| “yes|”| (and",
        "भूत| क्षि",
        "红|色|的|房|子|",
        "スープ|の|",
        "スープ",
        "👩‍👩‍👧|🏠|",
        "the| end| ",
        "the| end|!|",
    ):
        text = marked.replace("|", "")
        places = {match.start() - number for number, match in enumerate(regex.finditer(r"\|", marked))}
        assert word_ends(text) == places, marked


def test_no_word_ends_with_half_a_letter() -> None:
    """A vowel that is written before its consonant, and a sign that joins two, wait for what they belong to."""
    assert up_to_word("บ้านสีแ") == "บ้านสี"
    assert up_to_word("ក្រហម្") == "ក្រហ"
    assert up_to_word("👩👩\u200d") == "👩"
    assert up_to_word("Wed\ufffd") == "Wed" and up_to_word("A red hou") == "A red"


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", SCRIPTS)
def test_a_text_without_marks_is_kept_up_to_a_word(text: str) -> None:
    """At every limit, in bytes: nothing is lost but a last word or grapheme."""
    tokenizer = tiny.text_tokenizer()
    ids = tokenizer(text, add_special_tokens=False).input_ids
    run, clusters = TextRun(tokenizer.decode), regex.findall(r"\X", text)
    wholes = ["".join(clusters[:count]) for count in range(len(clusters) + 1)]
    for limit, token in enumerate(ids[:-1], start=1):
        run.add(token)
        place, is_cut = run.cut(told=limit - SENTENCE_ROOM, may_part_words=True)
        written = tokenizer.decode(ids[:limit]).rstrip("\ufffd")
        assert (place is not None) == is_cut == bool(written)
        kept = "" if place is None else tokenizer.decode(ids[: place.ids])
        assert written.startswith(kept) and (kept in wholes or kept == written)
        ends = sorted(end for end in word_ends(text) if end < len(written))
        assert kept == written or (ends and len(kept) >= ends[-1])


@pytest.mark.parametrize("text", [HINDI, THAI])
@pytest.mark.parametrize("budget", [1, 40, 80])
def test_the_document_is_what_was_said(model: Model, text: str, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = ids_of(model.codec, text)
    document, last, said = answered(model, ids, monkeypatch, max_new_tokens=budget)
    kept = document.answer[0].text if document.answer else ""
    assert kept == said and text.startswith(kept) and last.reason == "max_new_tokens"
    assert last.is_cut == document.extra["is_cut"] == (budget > 1) == bool(kept)  # one byte is no letter
    assert last.tokens == len(ids_of(model.codec, kept))


def test_a_sentence_goes_before_a_word_unless_the_stream_is_further(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    sentence = "यह लाल है।"
    ids = ids_of(model.codec, f"{sentence} {HINDI} {HINDI}")
    whole = len(ids_of(model.codec, sentence))
    document, last, said = answered(model, ids, monkeypatch, max_new_tokens=whole + 60)
    assert document.answer[0].text == said == sentence + " " and not last.is_cut and last.tokens == whole + 1
    document, last, said = answered(model, ids, monkeypatch, max_new_tokens=whole + 100)
    assert document.answer[0].text == said and said.startswith(sentence + " एक समय") and last.is_cut


@pytest.mark.parametrize("text", ["x" * 90, HINDI.replace(" ", ""), "🏠" * 24])
def test_what_was_said_is_not_taken_back(model: Model, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A word so long that the stream is within it when it begins to wait for its end."""
    ids = ids_of(model.codec, text)
    for budget in (len(ids) - 1,):
        document, last, said = answered(model, ids, monkeypatch, max_new_tokens=budget)
        assert document.answer[0].text == said and len(ids_of(model.codec, said)) > budget - 12 and last.is_cut


def test_a_text_behind_a_picture(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    v = model.codec.vocabulary
    picture = [v.break_id, *range(v.image_start, v.image_start + tiny.IMAGE_TOKENS)]
    first, second = ids_of(model.codec, "A house."), ids_of(model.codec, "Then draw an")
    ids, before = [*first, *picture, v.break_id, *second], len(first) + len(picture) + 1
    document, last, _ = answered(model, ids, monkeypatch, max_new_tokens=len(ids))
    assert [type(part) for part in document.answer] == [Text, Image, Text] and last.is_cut
    assert document.answer[2].text == "Then draw"
    document, last, _ = answered(model, ids, monkeypatch, max_new_tokens=before + 1)  # no word of it is whole
    assert [type(part) for part in document.answer] == [Text, Image] and not last.is_cut


@pytest.mark.slow
def test_the_context_as_a_limit(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = 6 * ids_of(model.codec, THAI)
    document, last, said = answered(model, ids, monkeypatch)
    assert last.reason == "context" and last.is_cut and len(said) > 200 and document.answer[0].text == said


def test_a_beginning_and_stop_strings(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the answer begins with is no sentence of its own, and a stop string's beginning at the limit is text."""
    ids = ids_of(model.codec, "xt day we draw a house STO")
    document, last, said = answered(model, ids, monkeypatch, "One. Ne", max_new_tokens=len(ids), stop=["STOP"])
    assert document.answer[0].text == "One. Next day we draw a house" and said == "xt day we draw a house"
    document, last, _ = answered(model, ids, monkeypatch, "One. Ne", max_new_tokens=1)
    assert document.answer[0].text.startswith("One. Nex") and last.is_cut
    ids = ids_of(model.codec, "a house STOP it")
    document, last, _ = answered(model, ids, monkeypatch, max_new_tokens=len(ids), stop=["STOP"])
    assert (last.reason, last.is_cut, document.answer[0].text) == ("stop", False, "a house ")


def test_an_end_of_its_own_is_no_cut(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [*ids_of(model.codec, "घर"), model.codec.vocabulary.eos_id]
    document, last, said = answered(model, ids, monkeypatch, max_new_tokens=50)
    assert (last.reason, last.is_cut, said) == ("end", False, "घर") and "within" not in to_html(document)


def test_a_gap_that_a_limit_closes_ends_with_a_word(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    gaps = Document(content=[Text("a"), Gap("text"), Image(codes=[1, 2, 3, 4]), Gap("text")])
    first, second = ids_of(model.codec, " red house 雨"), ids_of(model.codec, "雨")

    def script() -> Iterator[torch.Tensor]:
        yield from (torch.tensor([token]) for token in [*first[:-1], model.codec.vocabulary.eoss_id])
        yield from (torch.tensor([token]) for token in [*second, model.codec.vocabulary.eoss_id])

    left = script()
    monkeypatch.setattr("jam.generation.engine.sample", lambda *_: next(left))
    # Room for the first text without the last byte of its last letter, and for the least that the second one needs.
    done = model.fill(gaps, max_new_tokens=len(first) - 1 + 1 + 3)
    assert done.texts[:2] == ["a", " red house"] and done.extra["is_cut"]
    assert "\ufffd" not in done.texts[1]


# --- what tells it ----------------------------------------------------------------------------------------------------


def test_pages_and_commands_say_so(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = ids_of(model.codec, HINDI)
    document, _, said = answered(model, ids, monkeypatch, max_new_tokens=50)
    told = "finished: max_new_tokens, within a sentence"
    assert f"<p>{said.strip()}</p>\n<footer>{told}" in to_html(document)
    assert f"{said.strip()}\n\n*{told}" in to_markdown(document, tmp_path / "none")
    model.save(tmp_path / "model")
    for page, more in (("one.html", []), ("two.md", ["b"])):
        left = iter(ids)
        monkeypatch.setattr(
            "jam.generation.engine.sample", lambda logits, *_, left=left: torch.tensor([next(left)] * len(logits))
        )
        arguments = ["generate", str(tmp_path / "model"), "a", *more, "--max-new-tokens", "50", "--device", "cpu"]
        assert main([*arguments, "--out", str(tmp_path / page)]) == 0
        shown, lines = (tmp_path / page).read_text(encoding="utf-8"), capsys.readouterr().err
        assert said.strip() in shown and lines.count(told) == 1 + len(more)
        assert told + len(more) * "; max_new_tokens, within a sentence" in shown
