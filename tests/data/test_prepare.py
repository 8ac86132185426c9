"""`jam prepare` at scale: workers, kills, rejects and limits change nothing that they should not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import psutil
import pytest

from jam.api.loading import load_codec
from jam.cli import main
from jam.data import Shards, ShardWriter, open_sources, prepare
from support import faults, sources, tiny
from support.prepared import hashes, kill_within

COUNT, BAD = 200, 5


def run(folder, out, *options) -> int:
    """The command, on both sources."""
    names = [str(folder / "a" / "documents.jsonl"), str(folder / "b.tar")]
    return main(
        ["prepare", *names, "--model", str(folder / "fused"), "--out", str(out), "--max-rejects", "0.1", *options]
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model folder and two files of documents, with bad ones and a truncated picture among them."""
    folder = tmp_path_factory.mktemp("prepare")
    model = tiny.model(folder / "made")
    (folder / "fused").mkdir()
    model.save(folder / "fused")
    made = sources.records(COUNT)
    path = sources.write_json_lines(folder / "a", made[:130])
    lines = path.read_text().splitlines()
    lines[5] = '{"id": "empty", "content": []}'
    lines[17] = "{not JSON"
    lines[40] = r'{"id": "half \ud83d", "text": "\ud83d"}'
    lines[100] = '{"id": "odd", "nothing": 1}'
    path.write_text("\n".join(lines) + "\n")
    picture = folder / "a" / "images" / "d60-1.png"
    picture.write_bytes(picture.read_bytes()[:60])
    sources.write_tar(folder / "b.tar", made[130:])
    return folder


@pytest.fixture(scope="module")
def expected(place):
    assert run(place, place / "expected") == 0
    return hashes(place / "expected")


def test_rejects_are_listed_with_their_reasons(place, expected, capsys):
    found = [json.loads(line) for line in (place / "expected" / "rejects.jsonl").read_text().splitlines()]
    source = str(place / "a" / "documents.jsonl")
    assert [(one["source"], one["key"], one["id"]) for one in found] == [
        (source, "6", "empty"),
        (source, "18", None),
        (source, "41", "half \ud83d"),
        (source, "61", "d60"),
        (source, "101", "odd"),
    ]
    assert [one["reason"].partition(":")[0].partition(" (")[0] for one in found] == [
        "the document is empty",
        "the record is not valid JSON",
        "character 0 of a text is half a surrogate pair",
        f"picture {place}/a/images/d60-1.png cannot be read",
        "no text; expected content or messages",
    ]
    codec = load_codec(place / "fused", "cpu")
    assert len(Shards(place / "expected", codec.vocabulary, codec.fingerprint)) == COUNT - BAD


@pytest.mark.parametrize("workers", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_workers_change_nothing(place, expected, tmp_path, workers):
    assert run(place, tmp_path / "out", "--workers", str(workers)) == 0
    assert hashes(tmp_path / "out") == expected
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def killed(place, out, moment, count) -> None:
    kill_within(lambda: run(place, out), moment, count)


def test_killed_again_and_again(place, expected, tmp_path):
    """At five kinds of moments in turn."""
    out = tmp_path / "out"
    killed(place, out, "add", 30)
    killed(place, out, "state", 1)
    killed(place, out, "flush", 2)
    assert json.loads((tmp_path / ".out.partial" / "state.json").read_text())["seen"] == 64
    killed(place, out, "add", 70)
    killed(place, out, "state", 1)
    killed(place, out, "finish", 1)
    assert not out.exists()
    killed(place, out, "last", 1)
    assert hashes(out) == expected  # whole, with the remains of the run beside it
    assert run(place, out) == 1 and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_killed_and_gone_on_with(place, expected, tmp_path):
    out = tmp_path / "out"
    killed(place, out, "add", 150)
    assert json.loads((tmp_path / ".out.partial" / "state.json").read_text())["seen"] == 130
    assert not out.exists()
    assert run(place, out) == 0 and hashes(out) == expected


def alive(group: int) -> list[psutil.Process]:
    """Processes of a group that still run."""
    found = []
    for process in psutil.process_iter(["status"]):
        try:
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
        except ProcessLookupError:
            pass
    return found


@pytest.mark.slow
def test_two_workers_killed_and_gone_on_with(place, expected, tmp_path):
    """Killed from outside while they work; the workers end with their parent, and the next run goes on."""
    names = [str(place / "a" / "documents.jsonl")] * 40
    script = "import sys; from jam.cli import main; sys.exit(main(sys.argv[1:]))"
    options = ["--model", str(place / "fused"), "--out", str(tmp_path / "out"), "--max-rejects", "0.1"]
    options += ["--workers", "2"]
    process = subprocess.Popen([sys.executable, "-c", script, "prepare", *names, *options], start_new_session=True)
    state = tmp_path / ".out.partial" / "state.json"
    deadline = time.time() + 60
    while not state.exists() and process.poll() is None and time.time() < deadline:
        time.sleep(0.02)
    assert state.exists()
    process.kill()
    process.wait(60)
    assert not (tmp_path / "out").exists()
    while alive(process.pid) and time.time() < deadline:
        time.sleep(0.1)
    assert not alive(process.pid)
    for out, workers in ((tmp_path / "out", "2"), (tmp_path / "whole", "1")):
        options[3], options[-1] = str(out), workers
        assert main(["prepare", *names, *options]) == 0
    assert hashes(tmp_path / "out") == hashes(tmp_path / "whole")


def test_a_run_of_other_documents_begins_anew(place, expected, tmp_path):
    out = tmp_path / "out"
    killed(place, out, "add", 150)
    key = tmp_path / ".out.partial" / "key.json"
    key.write_text(key.read_text().replace("b.tar", "c.tar"))
    assert run(place, out) == 0 and hashes(out) == expected


def test_lost_files_of_a_killed_run_are_noticed(place, tmp_path, capsys):
    out = tmp_path / "out"
    killed(place, out, "add", 150)
    (tmp_path / ".out.partial" / "shards" / "ids.bin").write_bytes(b"")
    assert run(place, out) == 1
    assert "ids.bin has 0 of" in capsys.readouterr().err


def test_a_full_disk_keeps_what_was_prepared(place, expected, tmp_path, capsys, monkeypatch):
    out, exact = tmp_path / "out", ShardWriter.flush

    def full(writer):
        if writer.documents > 100:
            faults.full_disk()
        return exact(writer)

    monkeypatch.setattr(ShardWriter, "flush", full)
    assert run(place, out) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "disk is full" in error and "what was prepared is kept" in error and not out.exists()
    monkeypatch.undo()
    assert run(place, out) == 0 and hashes(out) == expected


def test_too_many_rejects_stop_the_run(place, expected, tmp_path, capsys):
    """By number or by share; with a higher limit it goes on, and the result is the same."""
    out = tmp_path / "out"
    for limit in ("2", "0.01", "0"):
        assert run(place, out, "--max-rejects", limit) == 1
        error = " ".join(capsys.readouterr().err.split())
        assert (
            f"documents were rejected, --max-rejects allows {limit}: {place}/a/documents.jsonl:6: the document" in error
        )
        assert not out.exists() and (tmp_path / ".out.partial" / "shards" / "rejects.jsonl").is_file()
    assert run(place, out, "--max-rejects", str(BAD)) == 0 and hashes(out) == expected
    for limit in ("-1", "1.5"):
        assert run(place, out.with_name("other"), "--max-rejects", limit) == 1
        assert f"--max-rejects is {limit}; give a number" in capsys.readouterr().err
    assert run(place, out.with_name("other"), "--workers", "0") == 1
    assert "workers is 0" in capsys.readouterr().err


def test_two_runs_of_one_result(place, tmp_path):
    opened = open_sources([place / "b.tar"])
    codec = load_codec(place / "fused", "cpu")
    first = prepare(opened, codec, tmp_path / "out")
    next(first)
    with pytest.raises(ValueError, match="another process is making"):
        next(iter(prepare(opened, codec, tmp_path / "out")))
    *_, summary = first
    assert summary["documents"] == 70 and summary["share"] == 1.0
