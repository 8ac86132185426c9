"""A few of the disturbances of `make kill`, always the same, and what it is to notice."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import kills


def test_documents_and_a_fusion_are_disturbed(tmp_path: Path) -> None:
    said: list[str] = []
    assert kills.kill_all(tmp_path, 3, 1, ["convert-documents", "fuse"], said.append) == 0, said
    assert said[-1] == "3 disturbances, 0 differences"


@pytest.mark.slow
def test_every_command_is_disturbed(tmp_path: Path) -> None:
    said: list[str] = []
    assert kills.kill_all(tmp_path, 24, 2, [], said.append) == 0, said


def writes_at_once(command: Any, path: Path, *_: Any) -> str:
    """As a command that is killed while it writes into the file itself."""
    whole = (path.parent / "whole").read_bytes()
    (path / command.result).write_bytes(whole[: len(whole) // 2])
    return "killed"


@pytest.mark.parametrize("check", [kills.opens_as_documents, lambda here: None])
def test_what_counts_as_a_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: Any) -> None:
    """A half that opens as whole, or what the next run leaves so."""
    kills.make_inputs(tmp_path / "inputs")
    command = kills.commands(tmp_path / "inputs")["convert-documents"]
    command.check = check
    kills.undisturbed("convert-documents", command, tmp_path / "here", tmp_path / "inputs")
    (tmp_path / "whole").write_bytes(command.whole["texts.jsonl"])
    for name in ("kill", "fill_disk"):
        monkeypatch.setattr(kills, name, writes_at_once)
    with pytest.raises((AssertionError, ValueError)):
        kills.disturbed(command, tmp_path / "here", random.Random(0), 1, Counter())
    shutil.rmtree(tmp_path / "here")


def test_an_error_that_is_no_full_disk_is_told(tmp_path: Path) -> None:
    kills.make_inputs(tmp_path / "inputs")
    command = kills.commands(tmp_path / "inputs")["convert-documents"]
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "texts.jsonl").mkdir()
    with pytest.raises(AssertionError, match=r"exit status 1: .*texts.jsonl exists"):
        kills.run_to_end(command, tmp_path / "here")
