"""Files that pickle wrote: nothing that they hold is run."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import BytesStorageMetadata

from jam.checkpoints import CheckpointReader
from jam.checkpoints.plain import load_plain
from jam.cli import main
from jam.codec.chameleon_convert import read_original
from jam.files import FileError
from jam.training.checkpoint import checkpoints, load_tensors
from jam.training.distributed import World
from jam.training.plain_reader import INDEX, PlainReader
from support import tiny
from support.runs import trainer, write_corpora


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def ran(tmp_path: Path) -> Any:
    """Where what must not run would leave its mark."""
    mark = tmp_path / "ran"
    yield mark
    assert not mark.exists()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "step-000001"
    tensors = {"model/weight": torch.ones(2, 3), "optimizer/exp_avg/weight": torch.zeros(2, 3)}
    dcp.save(tensors, storage_writer=dcp.FileSystemWriter(folder), no_dist=True)
    return folder


def read(checkpoint: Path) -> dict[str, torch.Tensor]:
    PlainReader(checkpoint).read_metadata()
    found = {"model/weight": torch.zeros(2, 3)}
    dcp.load(found, storage_reader=PlainReader(checkpoint), no_dist=True)
    return found


def changed_index(checkpoint: Path, change: Callable[[Any], Any]) -> None:
    index = dcp.FileSystemReader(checkpoint).read_metadata()
    (checkpoint / INDEX).write_bytes(pickle.dumps(change(index) or index))


def test_a_checkpoint_is_read(checkpoint: Path) -> None:
    assert torch.equal(read(checkpoint)["model/weight"], torch.ones(2, 3))


def as_a_whole(mark: Path) -> Callable[[Any], Any]:
    return lambda index: Touch(mark)


def as_a_field(mark: Path) -> Callable[[Any], Any]:
    def change(index: Any) -> None:
        index.planner_data = Touch(mark)

    return change


def as_a_name(mark: Path) -> Callable[[Any], Any]:
    def change(index: Any) -> None:
        index.storage_meta.checkpoint_id = Touch(mark)

    return change


@pytest.mark.parametrize("where", [as_a_whole, as_a_field, as_a_name])
def test_an_index_runs_nothing(checkpoint: Path, ran: Path, where: Any) -> None:
    changed_index(checkpoint, where(ran))
    with pytest.raises(FileError, match=r"\.metadata cannot be read \(it names posix\.mkdir, which no index"):
        read(checkpoint)


@pytest.mark.parametrize("name", ["builtins eval", "torch load", "torch.serialization load", "pathlib Path.unlink"])
def test_only_what_an_index_is_made_of_is_looked_up(checkpoint: Path, name: str) -> None:
    module, _, function = name.partition(" ")
    (checkpoint / INDEX).write_bytes(f"c{module}\n{function}\n.".encode())
    with pytest.raises(FileError, match="it could run code"):
        read(checkpoint)


def test_entries_that_are_no_tensors_are_refused(checkpoint: Path) -> None:
    """What is stored as bytes would be unpickled when it is loaded."""
    changed_index(checkpoint, lambda index: index.state_dict_metadata.update({"model/weight": BytesStorageMetadata()}))
    with pytest.raises(FileError, match="model/weight is no tensor"):
        read(checkpoint)


def test_files_of_other_folders_are_refused(checkpoint: Path) -> None:
    def elsewhere(index: Any) -> None:
        for entry in index.storage_data.values():
            entry.relative_path = "../elsewhere.distcp"

    changed_index(checkpoint, elsewhere)
    with pytest.raises(FileError, match=r"names \.\./elsewhere\.distcp, a file of another folder"):
        read(checkpoint)


def test_a_tensor_file_runs_nothing(checkpoint: Path, ran: Path) -> None:
    """In the place of a tensor."""
    index = PlainReader(checkpoint).read_metadata()
    entry = next(info for key, info in index.storage_data.items() if key.fqn == "model/weight")
    buffer = io.BytesIO()
    torch.save(Touch(ran), buffer)
    with (checkpoint / entry.relative_path).open("r+b") as file:
        file.seek(entry.offset)
        file.write(buffer.getvalue()[: entry.length])
    parameters = {"weight": torch.nn.Parameter(torch.zeros(2, 3))}
    with pytest.raises(FileError, match="is damaged"):
        load_tensors(checkpoint, parameters, [], World())


def test_neither_resume_nor_export_runs_an_index(tmp_path: Path, ran: Path, capsys: Any) -> None:
    """Though the checksums were made to fit."""
    shards = write_corpora(tmp_path / "data")
    steps = trainer(shards, tmp_path / "run", validation=[]).train()
    next(steps)
    steps.close()
    (checkpoint,) = checkpoints(tmp_path / "run")
    (checkpoint / INDEX).write_bytes(pickle.dumps(Touch(ran)))
    seal(checkpoint)
    with pytest.raises(FileError, match="which no index of tensors holds"):
        next(trainer(shards, tmp_path / "run", validation=[], resume=True).train())
    made = tiny.model(tmp_path / "made")
    (tmp_path / "model").mkdir()
    made.save(tmp_path / "model")
    assert (
        main(["export", str(tmp_path / "run"), "--model", str(tmp_path / "model"), "--out", str(tmp_path / "o")]) == 1
    )
    assert "which no index of tensors holds" in capsys.readouterr().err


def seal(checkpoint: Path) -> None:
    from jam.checkpoints.checksums import OTHERS, checksums_in, write_sealed
    from jam.training.checkpoint import STATE, read_state

    write_sealed(checkpoint / STATE, read_state(checkpoint) | {OTHERS: checksums_in(checkpoint, (STATE,))})


# --- other files that pickle wrote -----------------------------------------------------------------------------------


def zipped(path: Path, value: Any) -> None:
    torch.save({"state_dict": value, "weight": torch.zeros(1)}, path)


def old(path: Path, value: Any) -> None:
    """As torch wrote files before 1.6."""
    torch.save({"weight": value}, path, _use_new_zipfile_serialization=False)


def bare(path: Path, value: Any) -> None:
    path.write_bytes(pickle.dumps(value))


@pytest.mark.parametrize("write", [zipped, old, bare])
def test_weights_run_nothing(tmp_path: Path, ran: Path, write: Any) -> None:
    path = tmp_path / "pytorch_model.bin"
    write(path, Touch(ran))
    for read_file in (load_plain, read_original, lambda path: CheckpointReader(path.parent)):
        with pytest.raises(FileError, match=r"pytorch_model.bin (holds more than tensors|is damaged)"):
            read_file(path)


def test_a_damaged_archive_of_torch(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02.")
    with pytest.raises(FileError, match=r"pytorch_model\.bin is damaged: torch cannot load it"):
        load_plain(path)
