"""Fusions that are killed: the next run goes on from the finished files, and the result is that of one run."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import jam.checkpoints.resume
import jam.checkpoints.shards
from jam.checkpoints import resumable_folder
from jam.fusion import fuse
from support import faults
from support.fusion_parents import CODES, IMAGE_TOKENIZER, TEXT_SIZE, llama_config, run, save_parent, settings
from support.fusion_runs import FORKS, grown_memory, hash_of, killed, models_in, save_llamas

SMALL = {"every": 1, "shard_mb": 0.003}  # the pair of `save_llamas` then has about ten files


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A pair, and in `once` what an uninterrupted run makes of it."""
    save_llamas(tmp_path)
    run(tmp_path, **SMALL)
    (tmp_path / "out").rename(tmp_path / "once")
    return tmp_path


def place(pair: Path) -> Path:
    return pair / ".out.partial"


def finished(pair: Path) -> list[str]:
    journal = place(pair) / "journal.json"
    return sorted(json.loads(journal.read_text())["shards"]) if journal.is_file() else []


def resumed(pair: Path, **options: Any) -> str:
    """What the next run says."""
    lines: list[str] = []
    fuse(settings(pair, **(SMALL | options)), IMAGE_TOKENIZER, say=lines.append)
    return "\n".join(lines)


def check_result(pair: Path) -> None:
    assert hash_of(pair / "out") == hash_of(pair / "once")
    assert sorted(path.name for path in pair.iterdir()) == ["image", "once", "out", "text"]
    assert models_in(pair) == ["once", "out"]


@pytest.mark.parametrize("at", ["piece 1", "journal 1", "piece 20", "journal 6", "manifest", "folder", "config"])
def test_killed_within_a_step(pair: Path, at: str) -> None:
    killed(pair, at=at, **SMALL)
    assert models_in(pair) == ["once"]
    number = len(finished(pair))
    assert (number > 0) == (at not in ("piece 1", "journal 1"))
    said = resumed(pair)
    assert (f"going on: {number} finished files" in said) == (number > 0)
    check_result(pair)


def test_killed_when_only_cleaning_was_left(pair: Path) -> None:
    killed(pair, at="cleanup", **SMALL)
    assert hash_of(pair / "out") == hash_of(pair / "once")
    with pytest.raises(ValueError, match="out exists"):
        resumed(pair)
    check_result(pair)


def kill_at_random(pair: Path, count: int, **options: Any) -> int:
    """Kill `count` runs at random moments, and resume each; the number of those with finished files."""
    lifetime = killed(pair, **options)
    assert hash_of(pair / "out") == hash_of(pair / "once")
    moments, had_finished = random.Random(0), 0
    for _ in range(count):
        shutil.rmtree(pair / "out")
        killed(pair, after=moments.uniform(0, lifetime), **options)
        assert set(models_in(pair)) <= {"once", "out"}
        had_finished += bool(finished(pair))
        if not (pair / "out" / "config.json").exists():
            run(pair, **options)
        assert hash_of(pair / "out") == hash_of(pair / "once")
        shutil.rmtree(place(pair), ignore_errors=True)  # of one that was killed while it cleaned
    return had_finished


def test_killed_at_random(pair: Path) -> None:
    kill_at_random(pair, 3, **SMALL)


@pytest.mark.slow
def test_killed_at_twenty_random_moments(tmp_path: Path) -> None:
    save_llamas(tmp_path, hidden_size=256, intermediate_size=1024, num_hidden_layers=8)
    options = {"every": 1, "shard_mb": 2}
    run(tmp_path, **options)
    (tmp_path / "out").rename(tmp_path / "once")
    assert kill_at_random(tmp_path, 20, **options) >= 5


def test_finished_files_are_neither_computed_nor_written_again(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(pair, at="journal 6", **SMALL)
    kept = {name: (place(pair) / "model" / name).stat().st_ino for name in finished(pair)}
    written = []
    real = jam.checkpoints.shards._GrowingShard.write

    def write(growing: Any, name: str, *rest: Any) -> None:
        written.append(growing.shard.name)
        real(growing, name, *rest)

    monkeypatch.setattr(jam.checkpoints.shards._GrowingShard, "write", write)
    resumed(pair)
    assert kept and not kept.keys() & set(written)
    assert kept == {name: (pair / "out" / name).stat().st_ino for name in kept}
    check_result(pair)


@pytest.mark.parametrize("damage", ["a bit", "the end", "all"])
def test_finished_file_that_was_damaged_is_made_again(pair: Path, damage: str) -> None:
    killed(pair, at="journal 6", **SMALL)
    path = place(pair) / "model" / finished(pair)[0]
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    if damage == "all":
        path.unlink()
    else:
        path.write_bytes(data if damage == "a bit" else data[:-16])
    resumed(pair)
    check_result(pair)


def test_another_command_begins_anew(pair: Path) -> None:
    killed(pair, at="journal 6", **SMALL)
    assert "going on" not in resumed(pair, seed=1)
    assert hash_of(pair / "out") != hash_of(pair / "once")
    shutil.rmtree(pair / "out")
    killed(pair, at="journal 6", **SMALL)
    save_parent(pair / "text", llama_config(TEXT_SIZE), 3)  # another parent under the same name
    assert "going on" not in resumed(pair)
    begun_anew = hash_of(pair / "out")
    shutil.rmtree(pair / "out")
    run(pair, **SMALL)
    assert hash_of(pair / "out") == begun_anew


def test_interrupt_keeps_finished_files(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted = faults.raising(KeyboardInterrupt(), done=True)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        faults.at_call(patched, jam.checkpoints.resume.Journal, "record_shard", interrupted)
        run(pair, **SMALL)
    assert finished(pair) and not (pair / "out").exists()
    assert "going on" in resumed(pair)
    check_result(pair)


def test_disk_that_gets_full_keeps_finished_files(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(pair, at="journal 6", **SMALL)
    with monkeypatch.context() as patched:
        patched.setattr(jam.checkpoints.shards, "_write_at", faults.full_disk)
        with pytest.raises(ValueError, match=r"the disk is full: .*\d finished files are kept in .*\.out\.partial"):
            run(pair, **SMALL)
    resumed(pair)
    check_result(pair)


def test_two_processes_do_not_make_one_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(RuntimeError), resumable_folder(out, "key", 0):
        with (
            pytest.raises(ValueError, match=r"another process is making .*out"),
            resumable_folder(out, "key", 0),
        ):
            raise AssertionError("the block must not run")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_result_does_not_depend_on_files_and_threads(tmp_path: Path) -> None:
    save_llamas(tmp_path)
    written = []
    for threads, shard_mb in ((1, 0.003), (4, 2000)):
        torch.set_num_threads(threads)
        try:
            run(tmp_path, out=str(tmp_path / str(threads)), every=1, shard_mb=shard_mb)
        finally:
            torch.set_num_threads(1)
        tensors: dict[str, torch.Tensor] = {}
        for path in (tmp_path / str(threads)).glob("*.safetensors"):
            tensors |= load_file(path)
        written.append(tensors)
    assert written[0].keys() == written[1].keys()
    assert all(torch.equal(tensor, written[1][name]) for name, tensor in written[0].items())


@pytest.mark.parametrize(
    ("method", "options"),
    [("uniform", {"weight": 0.3}), ("width", {"init": "average"}), ("cross", {"readout": "paper"})],
    ids=["uniform", "width", "cross"],
)
def test_tables_in_many_blocks_are_those_in_one(
    tmp_path: Path, method: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of one row each against whole tensors; means add up in another order."""
    save_llamas(tmp_path)
    run(tmp_path, out=str(tmp_path / "whole"), method=method, **options)
    monkeypatch.setattr("jam.fusion.blocks.BLOCK", 1)
    run(tmp_path, out=str(tmp_path / "rows"), method=method, **options)
    whole, rows = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "rows"))
    assert whole.keys() == rows.keys()
    for name, tensor in whole.items():
        if method == "cross" and not name.startswith(("text_tower", "image_tower", "embed", "lm_head", "norm")):
            continue  # random: drawn in blocks
        torch.testing.assert_close(rows[name], tensor, rtol=0, atol=1e-6 if "embed" in name or "head" in name else 0)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_tensors(tmp_path: Path) -> None:
    """Tables and matrices of 130 MB each."""
    sizes = dict(hidden_size=4096, intermediate_size=8192, num_hidden_layers=1, num_attention_heads=32)
    for role, codes in (("text", 0), ("image", CODES)):
        save_parent(tmp_path / role, llama_config(TEXT_SIZE + codes, **sizes), 1)
    queue = FORKS.Queue()
    child = FORKS.Process(target=grown_memory, args=(tmp_path, queue))
    child.start()
    assert queue.get(timeout=120) < 100e6
    child.join(60)
    assert child.exitcode == 0
