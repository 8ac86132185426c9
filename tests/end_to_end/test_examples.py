"""The examples run from beginning to end, on documents made here."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from support import tiny

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["opt", "llama"])
def test_real_documents(tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wide and tall pictures, a text that names </s>, and a document that is longer than the context."""
    (tmp_path / "docs" / "images").mkdir(parents=True)
    lines = []
    for number in range(12):
        tiny.picture(number, (90, 30) if number % 2 else (30, 90)).save(tmp_path / "docs" / "images" / f"{number}.png")
        picture = {"type": "image", "image": f"images/{number}.png"}
        story = {
            "type": "text",
            "text": f"{tiny.SENTENCES[number % 4]} It ends with </s>. " * (60 if number == 5 else 1),
        }
        answer = {"role": "assistant", "content": [story, picture, story, picture]}
        question = {"role": "user", "content": [{"type": "text", "text": "How do I draw it?"}]}
        lines.append(json.dumps({"messages": [question, answer]}))
    (tmp_path / "docs" / "documents.jsonl").write_text("\n".join(lines))
    tiny.text_tokenizer().backend_tokenizer.model.save(str(tmp_path))
    arguments = [str(tmp_path / "docs"), "--tokenizer", str(tmp_path), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["real_documents.py", *arguments, "--family", family, "--steps", "12"])
    runpy.run_path(str(ROOT / "examples" / "real_documents.py"), run_name="__main__")
    page = (tmp_path / "out" / "page.html").read_text()
    assert "<h2>How do I draw it?</h2>" in page and "<img" in page
    assert json.loads((tmp_path / "out" / "perplexity.json").read_text())["image_tokens"] > 0


def story(number: int) -> dict[str, Any]:
    """A picture book of three pages."""
    parts: list[dict[str, Any]] = []
    for page in range(3):
        text = f"On day {number} the fox found {page + 1} blue stones."
        parts += [{"type": "text", "text": text}, {"type": "image", "image": f"images/{3 * number + page}.png"}]
    question = {"role": "user", "content": [{"type": "text", "text": f"A story of the fox, number {number}"}]}
    return {"id": f"book-{number}", "messages": [question, {"role": "assistant", "content": parts}]}


def caption(number: int) -> dict[str, Any]:
    picture = {"type": "image", "image": f"images/{number}.png"}
    return {"id": f"caption-{number}", "content": [{"type": "text", "text": f"stone number {number}"}, picture]}


def plain(number: int) -> dict[str, Any]:
    return {"id": f"text-{number}", "content": [{"type": "text", "text": f"{number} foxes met. " * 40}]}


DOCUMENTS = 48  # of a corpus
CORPORA = {
    "captions/emoji": caption,
    "captions/textbook": caption,
    "interleaved/storybooks": story,
    "interleaved/textbook": caption,
    "interleaved/howto": story,
    "text/wikipedia": plain,
    "text/novels": plain,
}


def write_corpora(data: Path) -> Iterator[Path]:
    for name, make in CORPORA.items():
        (data / name / "images").mkdir(parents=True)
        for number in range(3 * DOCUMENTS):  # more than 256 in all, which the tokenizer leaves out
            tiny.picture(number, (64, 64)).save(data / name / "images" / f"{number}.png")
        records = [json.dumps(make(number)) for number in range(DOCUMENTS)]
        (data / name / "documents.jsonl").write_text("\n".join(records))
        yield data / name


@pytest.mark.slow
def test_storybooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage once, with a few steps; then again, when nothing is left to train."""
    pytest.importorskip("matplotlib").use("Agg")
    assert len(list(write_corpora(tmp_path / "data"))) == len(CORPORA)
    spec = spec_from_file_location("storybooks", ROOT / "examples" / "storybooks.py")
    assert spec is not None and spec.loader is not None
    storybooks = module_from_spec(spec)
    spec.loader.exec_module(storybooks)
    monkeypatch.setattr(storybooks, "PROMPTS", 1)
    monkeypatch.setattr(storybooks, "TEXT_SIZE", 400)
    out = tmp_path / "out"
    for _ in range(2):
        monkeypatch.setattr(
            sys, "argv", ["storybooks.py", str(tmp_path / "data"), "--out", str(out), "--scale", "0.001"]
        )
        storybooks.main()
        report = json.loads((out / "report.json").read_text())
        assert report.keys() == {"fused", "align", "instruct", "image tokenizer"}
        assert all(report[stage]["image_tokens"] > 0 for stage in ("fused", "align", "instruct"))
        page = (out / "page.html").read_text()
        assert "A story of the fox" in page and page.count("<img") >= 2
        assert (out / "curves.png").stat().st_size > 0
    books = [(out / "documents" / f"stories{split}.jsonl").read_text() for split in ("", "-validation")]
    ids = [{json.loads(line)["id"] for line in one.splitlines()} for one in books]
    assert ids[1] and not ids[0] & ids[1] and len(ids[0] | ids[1]) == DOCUMENTS
