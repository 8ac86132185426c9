"""The journal of a result that is made over several runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from jam.checkpoints.resume import resumable_folder


@pytest.mark.parametrize("error", [None, RuntimeError("stopped")])
def test_what_is_recorded_late_is_not_written(tmp_path: Path, error: Exception | None) -> None:
    """Threads that hash the parents may end behind the folder."""
    try:
        with resumable_folder(tmp_path / "out", "key", 0) as work:
            (work.beside / "config.json").write_text("{}")
            if error is not None:
                raise error
    except RuntimeError:
        pass
    work.journal.record_hash("text/model.safetensors", "0" * 64)
    assert [path.name for path in tmp_path.iterdir()] == ([] if error else ["out"])
