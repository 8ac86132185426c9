"""A document that fails while its events are read: they come as far as it came, and then the error of `generate`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jam.api.model import Model
from jam.cli import main
from jam.commands import generate
from jam.generation import Finished, TextPiece
from support import faults
from support.writing import writer

SETTINGS: dict[str, Any] = {"max_new_tokens": 24, "temperature": 0.0}
QUESTION = "How do I draw it?"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return writer(tmp_path_factory.mktemp("writer") / "cross")


@pytest.fixture
def broken(model: Model, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes logits of the n-th forward from now on not finite."""
    return lambda after: faults.at_call(monkeypatch, model.joint, "logits", faults.not_finite(), after)


def until_error(events: Any) -> tuple[str, str]:
    """The text that came, and the error behind it."""
    text = ""
    with pytest.raises(ValueError) as error:
        for event in events:
            assert not isinstance(event, Finished)
            text += event.text if isinstance(event, TextPiece) else ""
    return text, str(error.value)


def test_a_stream_that_fails_raises_what_generate_raises(model: Model, broken: Callable) -> None:
    whole = "".join(part.text for part in model.generate(QUESTION, max_images=0, **SETTINGS).answer)
    broken(9)
    with pytest.raises(ValueError) as error:
        model.generate(QUESTION, max_images=0, **SETTINGS)
    broken(9)
    text, message = until_error(model.stream(QUESTION, max_images=0, **SETTINGS))
    assert text and text != whole and whole.startswith(text)
    assert message == str(error.value) and "not finite" in message


def test_a_conversation_goes_on_behind_a_stream_that_failed(model: Model, broken: Callable) -> None:
    chat = model.chat(max_images=0, **SETTINGS)
    broken(9)
    text, message = until_error(chat.stream(QUESTION))
    assert text and "not finite" in message and not chat.document.messages
    assert chat.send(QUESTION).content == model.generate(QUESTION, max_images=0, **SETTINGS).answer


def test_jam_generate_ends_with_the_error(
    model: Model, broken: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(generate, "load_chosen", lambda *_: model)
    command = ["generate", str(model.folder), QUESTION, "--max-images", "0", "--max-new-tokens", "24"]
    for page in ([], ["--out", str(tmp_path / "page.html")]):
        broken(9)
        assert main([*command, "--temperature", "0", *page]) == 1
        out, errors = capsys.readouterr()
        assert errors.splitlines()[-1].startswith("jam generate: the model's logits were not finite")
        assert "Traceback" not in errors and "finished:" not in errors and not list(tmp_path.iterdir())
        assert out == "" if page else out.startswith(QUESTION) and len(out) > len(QUESTION) + 2 and out.endswith("\n")
