"""Two processes with one `--out`: the second finds the first at work, whatever it is doing, and leaves it alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jam.checkpoints.resume import place_beside, require_free, resumable_folder
from support.fusion_parents import run
from support.fusion_runs import hash_of, save_llamas


def make(out: Path) -> None:
    with resumable_folder(out, "key", 0) as work:
        (work.folder / "model.safetensors").write_bytes(b"x")
        (work.beside / "config.json").write_text("{}")
        work.journal.record_shard("model.safetensors", {})


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("step", ["model", "config.json"])
def test_a_fusion_begun_within_the_last_steps_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    save_llamas(tmp_path)
    run(tmp_path)
    (tmp_path / "out").rename(tmp_path / "once")
    rename, begun = Path.rename, []

    def armed(path: Path, target: Path) -> Path:
        renamed = rename(path, target)
        if path.name == step:
            with pytest.raises(ValueError, match=r"another process is making .*out; wait for it"):
                run(tmp_path)
            begun.append(step)
        return renamed

    monkeypatch.setattr(Path, "rename", armed)
    run(tmp_path)
    assert begun == [step] and hash_of(tmp_path / "out") == hash_of(tmp_path / "once")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image", "once", "out", "text"]


def test_a_lock_that_appears_while_the_place_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result is whole by then; the next process tidies."""
    out, rmdir = tmp_path / "out", os.rmdir

    def armed(path: str, **options: int) -> None:
        if Path(path).name == place_beside(out).name:
            (place_beside(out) / "lock").touch()
        rmdir(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", armed)
        make(out)
    assert names(tmp_path) == [".out.partial/lock", "out/config.json", "out/model.safetensors"]
    with pytest.raises(ValueError, match="out exists; choose another --out"):
        require_free(out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_path_that_is_taken_costs_a_killed_run_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), resumable_folder(out, "key", 0) as work:
        (work.folder / "model.safetensors").write_bytes(b"x")
        work.journal.record_shard("model.safetensors", {})
        raise KeyboardInterrupt
    kept = names(place_beside(out))
    assert kept == ["journal.json", "lock", "model/model.safetensors"]
    out.mkdir()
    for attempt in (require_free, make):
        with pytest.raises(ValueError, match="out exists; choose another --out"):
            attempt(out)
    assert names(place_beside(out)) == kept
    out.rmdir()
    require_free(out)
    make(out)
    assert names(tmp_path) == ["out/config.json", "out/model.safetensors"]


def test_a_path_that_is_free_or_taken(tmp_path: Path) -> None:
    require_free(tmp_path / "out")
    (tmp_path / "taken").mkdir()
    for attempt in (require_free, make):
        with pytest.raises(ValueError, match="taken exists; choose another --out"):
            attempt(tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
