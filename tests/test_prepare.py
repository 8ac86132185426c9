"""`jam prepare` at scale: workers, kills, rejects and limits change nothing that they should not."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sources
import tiny

from jam.cli import main
from jam.data import open_sources, prepare
from jam.data import prepare as prepare_function
from jam.data.workers import encode_blocks

COUNT = 200


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def spoilt(made):
    """Some records that are no documents; returns their numbers."""
    made[5]["content"] = "text"[:0]
    made[17] = {"id": "odd", "nothing": 1}
    made[100]["messages" if "messages" in made[100] else "content"] = [{"type": "video"}]
    return [5, 17, 100]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model folder and two files of documents, with bad ones and a truncated picture among them."""
    folder = tmp_path_factory.mktemp("prepare")
    tiny.model(folder / "fused").save(tmp := folder / "saved") if False else None
    made = sources.records(COUNT)
    bad = [6, 18, 101]
    first, second = made[:130], made[130:]
    path = sources.write_json_lines(folder / "a", first)
    lines = path.read_text().splitlines()
    lines[5] = '{"id": "empty", "content": []}'
    lines[17] = "{not JSON"
    lines[100] = '{"id": "odd", "nothing": 1}'
    path.write_text("\n".join(lines) + "\n")
    picture = folder / "a" / "images" / "d60-1.png"
    picture.write_bytes(picture.read_bytes()[:60])
    sources.write_tar(folder / "b.tar", second)
    return folder, bad
