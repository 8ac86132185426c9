"""Rejects of a run that stopped are judged again when the files that they depend on have changed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from jam.cli import main
from jam.data import ShardWriter
from support import sources, tiny
from support.prepared import hashes, kill_within

COUNT = 200
BAD = (3, 72, 150)  # documents with a picture, in three blocks


@pytest.fixture
def place(tmp_path):
    """A model folder, documents with three missing or damaged pictures, and their good pictures."""
    model = tiny.model(tmp_path / "made")
    (tmp_path / "fused").mkdir()
    model.save(tmp_path / "fused")
    sources.write_json_lines(tmp_path / "a", sources.records(COUNT))
    return tmp_path


def picture(place: Path, number: int) -> Path:
    (path,) = (place / "a" / "images").glob(f"d{number}-*.png")
    return path


def run(place: Path, out: str, limit: float = 0) -> int:
    names = [str(place / "a" / "documents.jsonl"), "--model", str(place / "fused"), "--out", str(place / out)]
    return main(["prepare", *names, "--max-rejects", str(limit)])


def rejects(place: Path, out: str) -> list[str]:
    return [json.loads(line)["id"] for line in (place / out / "rejects.jsonl").read_text().splitlines()]


def damaged(place: Path) -> dict[int, bytes]:
    """Two pictures that are cut and one that is gone; returns what they were."""
    good = {number: picture(place, number).read_bytes() for number in BAD}
    for number in BAD:
        path = picture(place, number)
        path.write_bytes(good[number][:60])
    picture(place, BAD[1]).rename(place / "away.png")
    return good


def restore(place: Path, good: dict[int, bytes], number: int) -> None:
    name = next(path for path in json.loads((place / "names.json").read_text()) if f"/d{number}-" in path)
    Path(name).write_bytes(good[number])


@pytest.fixture
def stopped(place):
    """The good result, and a run that the last of three rejects stopped."""
    assert run(place, "expected") == 0
    (place / "names.json").write_text(json.dumps([str(picture(place, number)) for number in BAD]))
    good = damaged(place)
    assert run(place, "out", 2) == 1
    assert not (place / "out").exists()
    return place, good


def test_all_are_corrected(stopped):
    place, good = stopped
    for number in BAD:
        restore(place, good, number)
    assert run(place, "out") == 0
    assert hashes(place / "out") == hashes(place / "expected") and rejects(place, "out") == []


@pytest.mark.parametrize("corrected", BAD)
def test_one_is_corrected(stopped, corrected):
    """The result is that of a run which begins now."""
    place, good = stopped
    restore(place, good, corrected)
    assert run(place, "out", 2) == 0 and run(place, "anew", 2) == 0
    assert hashes(place / "out") == hashes(place / "anew")
    assert rejects(place, "out") == [f"d{number}" for number in BAD if number != corrected]


def test_none_is_corrected(stopped, monkeypatch):
    """The run goes on from where it stood: behind its third block."""
    place, _ = stopped
    added: list[object] = []
    monkeypatch.setattr(ShardWriter, "add", lambda *arguments: added.append(arguments))
    assert run(place, "out", 3) == 0 and len(added) == COUNT - 192
    assert rejects(place, "out") == [f"d{number}" for number in BAD]


def test_a_picture_that_changed_and_stays_bad(stopped):
    place, good = stopped
    picture(place, BAD[0]).write_bytes(good[BAD[0]][:50])
    assert run(place, "out", 2) == 1 and run(place, "out", 3) == 0 and run(place, "anew", 3) == 0
    assert hashes(place / "out") == hashes(place / "anew")


@pytest.mark.parametrize(("moment", "count"), [("add", 1), ("add", 40), ("flush", 1), ("state", 1)])
def test_killed_when_it_has_gone_back(stopped, moment, count):
    place, good = stopped
    for number in BAD[1:]:
        restore(place, good, number)
    kill_within(lambda: run(place, "out", 1), moment, count)
    assert run(place, "out", 1) == 0 and run(place, "anew", 1) == 0
    assert hashes(place / "out") == hashes(place / "anew") and rejects(place, "out") == [f"d{BAD[0]}"]


def test_a_line_that_a_kill_cut_is_no_verdict(stopped):
    place, good = stopped
    verdicts = place / ".out.partial" / "verdicts.jsonl"
    with verdicts.open("a") as file:
        file.write('{"before": {"se')
    restore(place, good, BAD[2])
    assert run(place, "out", 2) == 0 and rejects(place, "out") == [f"d{number}" for number in BAD[:2]]
    assert not (place / ".out.partial").exists() and os.listdir(place / "out")
