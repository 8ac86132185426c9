"""Tests run on one thread, and so do the processes that they start: tiny models are faster so, several tests run at a
time, and results do not depend on the machine."""

from __future__ import annotations

import gc
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jam  # noqa: F401  it says how threads wait, before torch is imported

# isort: split
import pytest
import torch
from transformers.utils.logging import disable_progress_bar

from jam.cli import main

disable_progress_bar()  # what a test prints does not depend on the tests before it
logging.disable(logging.DEBUG)  # torch's checkpoints write hundreds of such records, and pytest keeps them
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
os.fsync = lambda file: None  # a kill loses nothing without it; a cut of the power is not tested


SLOW = pytest.mark.timeout(1800)  # seconds
WITHOUT_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What the markers `slow` and `gpu` do."""
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(SLOW)
        if item.get_closest_marker("gpu"):
            item.add_marker(WITHOUT_GPU)


def pytest_collection_finish() -> None:
    """Collections of garbage are rare, and leave out what was imported: that takes half a second each."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 50)


@pytest.fixture
def jam_verify(capsys: Any, tmp_path: Path) -> Callable[..., tuple[int, str, dict[str, Any]]]:
    """Status, what was printed and the JSON report of `jam verify out ...`."""

    def call(*arguments: object, out: str = "out") -> tuple[int, str, dict[str, Any]]:
        path = tmp_path / "proof.json"
        path.unlink(missing_ok=True)
        words = ["verify", tmp_path / out, "--device", "cpu", "--json", path, "--answer-ids", 4, *arguments]
        status = main([str(word) for word in words])
        captured = capsys.readouterr()
        return status, captured.out + captured.err, json.loads(path.read_text()) if path.exists() else {}

    return call
