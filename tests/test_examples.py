"""The examples run from beginning to end, on documents made here."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import tiny

ROOT = Path(__file__).parents[1]


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
