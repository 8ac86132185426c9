"""A disk that is full at any moment of a run: what there was stays, and the message says what to do."""

from __future__ import annotations

import errno
import json
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from jam.checkpoints import folders
from jam.training import checkpoint
from jam.training.checkpoint import Checkpoints, Rule, bytes_of, checkpoints
from jam.training.distributed import World
from jam.training.records import Records
from support import faults
from support.runs import trainer, write_corpora


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_corpora(tmp_path_factory.mktemp("data"))


def test_records_of_a_resumed_run_stay(tmp_path, monkeypatch):
    lines = "".join(json.dumps({"step": step}) + "\n" for step in range(1, 5))
    (tmp_path / "metrics.jsonl").write_text(lines)
    exact = Path.write_text

    def cut(path: Path, text: str, **more: Any) -> None:
        exact(path, text[:5], **more)
        faults.full_disk()

    monkeypatch.setattr(Path, "write_text", cut)
    with pytest.raises(OSError, match="No space left"):
        Records(tmp_path, 3)
    monkeypatch.undo()
    assert (tmp_path / "metrics.jsonl").read_text() == lines
    Records(tmp_path, 3).close()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_record_that_cannot_be_written_costs_no_checkpoint(shards, tmp_path, monkeypatch):
    """The one that is being written then gets its name."""

    def full(write: Any, records: Records, values: dict[str, Any]) -> None:
        records.file.close()
        records.file = open("/dev/full", "w")  # noqa: SIM115
        write(records, values)

    faults.at_call(monkeypatch, Records, "write", full, when=lambda records, values: values["step"] == 3)
    made = trainer(shards, tmp_path / "run", checkpoint_every=2)
    faults.name_late(monkeypatch, made)
    with pytest.raises(ValueError, match=r"the disk is full: cannot write .*run: .*the last checkpoint is .*000002"):
        list(made.train())
    assert [path.name for path in (made.run / "checkpoints").iterdir()] == ["step-000002"]
    monkeypatch.undo()
    assert next(trainer(shards, tmp_path / "run", resume=True).train()).step == 3


def test_no_room_for_the_state_of_a_checkpoint(shards, tmp_path, monkeypatch):
    made = trainer(shards, tmp_path / "run", checkpoint_every=2)
    steps = made.train()
    for _ in range(3):
        next(steps)
    made.checkpoints.settle(wait=True)
    monkeypatch.setattr(checkpoint, "write_sealed", faults.full_disk)
    with pytest.raises(ValueError, match=r"the disk is full: cannot write .*000004: .*last checkpoint is .*000002"):
        list(steps)
    assert [path.name for path in (made.run / "checkpoints").iterdir()] == ["step-000002"]


class Other(World):
    """Not the first process; that one met a full disk."""

    def __init__(self) -> None:
        super().__init__(rank=1)

    def of_first(self, value: Any) -> Any:
        assert value == (None, None)
        return None, OSError(errno.ENOSPC, "No space left on device")


def test_other_processes_learn_that_there_was_no_room(tmp_path):
    written: Future[None] = Future()
    written.set_result(None)
    made = Checkpoints(tmp_path, Rule(0), Other())
    made._pending = checkpoint._Pending(tmp_path / "step-000001", written)
    with pytest.raises(ValueError, match="the disk is full"):
        made.settle(wait=True)
    assert not checkpoints(tmp_path)


def test_copies_on_other_nodes_need_no_room():
    """Two nodes of two processes, of which this is one: the others are not there."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    try:
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
        divided = distribute_tensor(torch.zeros(8, 3), mesh, [Replicate(), Shard(0)])
        assert divided.to_local().shape == (4, 3)
        assert bytes_of({"divided": divided, "step": torch.tensor(1.0, dtype=torch.float64)}) == 8 * 3 * 4 + 8
    finally:
        dist.destroy_process_group()


def test_what_is_written_is_on_the_disk_before_it_has_its_name(shards, tmp_path, monkeypatch):
    synced: list[Path] = []
    monkeypatch.setattr(checkpoint, "sync", lambda path: (synced.append(path), folders.sync(path)))
    next(steps := trainer(shards, tmp_path / "run").train())
    steps.close()
    place = tmp_path / "run" / "checkpoints"
    partial = place / ".step-000001.partial"
    assert synced == [partial / "run.json", partial, place]
