"""Checkpoints: folders that appear whole or not at all, lazy reading, streamed sharded writing, the manifest."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from jam.checkpoints import (
    CheckpointReader,
    Jobs,
    Manifest,
    TensorInfo,
    check_tensors,
    has_weights,
    new_folder,
    write_checkpoint,
    write_json,
)

TENSORS = {
    "a.weight": torch.randn(4, 6),
    "b.half": torch.randn(3, 5).to(torch.bfloat16),
    "c.scalar": torch.tensor(7),
    "d.flags": torch.tensor([True, False, True]),
    "e.empty": torch.empty(0, 2, dtype=torch.float16),
}


def write(folder: Path, tensors: dict[str, torch.Tensor] = TENSORS, **options: int) -> None:
    infos = {name: TensorInfo.of(tensor) for name, tensor in tensors.items()}
    with Jobs(2) as jobs:
        write_checkpoint(folder, infos, lambda name: [tensors[name]], jobs, **options)


def assert_reads(folder: Path, tensors: dict[str, torch.Tensor] = TENSORS) -> None:
    reader = CheckpointReader(folder)
    assert reader.infos.keys() == tensors.keys()
    for name, tensor in tensors.items():
        read = reader.read(name)
        assert read.dtype == tensor.dtype and torch.equal(read, tensor)


def test_one_file_is_what_safetensors_reads(tmp_path: Path) -> None:
    write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    loaded = load_file(tmp_path / "model.safetensors")
    assert loaded.keys() == TENSORS.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in TENSORS.items())
    assert_reads(tmp_path)


def test_files_of_safetensors_are_read(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    assert_reads(tmp_path)


def test_shards_are_named_and_indexed_as_transformers_does(tmp_path: Path) -> None:
    tensors = {f"layer.{i}": torch.randn(10, 10) for i in range(5)}
    write(tmp_path, tensors, max_shard_bytes=900)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_parameters": 500, "total_size": 2000}
    files = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*files, "model.safetensors.index.json"]
    assert index["weight_map"] == dict(zip(tensors, [files[0]] * 2 + [files[1]] * 2 + [files[2]], strict=True))
    assert_reads(tmp_path, tensors)
    (tmp_path / files[1]).unlink()
    with pytest.raises(ValueError, match=r"00002-of-00003.safetensors is missing; the index names 3 files"):
        CheckpointReader(tmp_path)


def test_index_that_promises_more_than_the_files_hold(tmp_path: Path) -> None:
    write(tmp_path, {"x": torch.zeros(3), "y": torch.zeros(3)}, max_shard_bytes=12)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    index["weight_map"]["z"] = index["weight_map"]["x"]
    write_json(tmp_path / "model.safetensors.index.json", index)
    with pytest.raises(ValueError, match=r"names 1 tensors that its files do not hold: z"):
        CheckpointReader(tmp_path)


def test_legacy_bin_single_and_sharded(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 2), "b": torch.randn(4)}
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    assert_reads(tmp_path, tensors)
    (tmp_path / "pytorch_model.bin").unlink()
    torch.save({"a": tensors["a"]}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({"b": tensors["b"]}, tmp_path / "pytorch_model-00002-of-00002.bin")
    weight_map = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    write_json(tmp_path / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": weight_map})
    assert_reads(tmp_path, tensors)


@pytest.mark.parametrize("cut", [4, 30])
def test_truncated_file(tmp_path: Path, cut: int) -> None:
    write(tmp_path)
    path = tmp_path / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-cut] if cut == 4 else data[:cut])
    with pytest.raises(ValueError, match=r"model.safetensors is (damaged|truncated)"):
        CheckpointReader(tmp_path)


def test_no_weights(tmp_path: Path) -> None:
    assert not has_weights(tmp_path)
    with pytest.raises(ValueError, match="holds no weights"):
        CheckpointReader(tmp_path)


def test_check_tensors_lists_a_few_and_counts_all() -> None:
    found = {name: TensorInfo((2,), "F32") for name in ("a", "b", "tied", "x1", "x2", "x3", "x4", "x5")}
    check_tensors({"a": found["a"], "tied": found["tied"]}, {"a": (2,)}, "it", ignore=["tied"])
    with pytest.raises(ValueError) as caught:
        check_tensors(found, {"a": (2,), "b": (3,), "c": (2,), "d": (2,)}, "the parent p", ignore=["tied"])
    message = str(caught.value)
    assert "the parent p does not fit its config.json: of 4 expected and 8 found tensors" in message
    assert "2 missing (c, d)" in message
    assert "5 not expected (x1, x2, x3, x4, ...)" in message
    assert "1 of another shape (b [2] instead of [3])" in message


def test_new_folder_appears_whole(tmp_path: Path) -> None:
    with new_folder(tmp_path / "deep" / "model") as folder:
        (folder / "file").write_text("x")
        assert not (tmp_path / "deep" / "model").exists()
    assert (tmp_path / "deep" / "model" / "file").read_text() == "x"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["model"]


@pytest.mark.parametrize("error", [RuntimeError("failed"), KeyboardInterrupt()])
def test_new_folder_leaves_nothing_after_an_error_or_interrupt(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), new_folder(tmp_path / "model") as folder:
        write(folder)
        raise error
    assert list(tmp_path.iterdir()) == []


def test_existing_path_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine").write_text("x")
    with (
        pytest.raises(ValueError, match=r"model exists; choose another --out or remove it"),
        new_folder(tmp_path / "model"),
    ):
        raise AssertionError("the block must not run")
    with (
        pytest.raises(ValueError, match="exists; choose another"),
        new_folder(tmp_path / "late") as folder,
    ):
        shutil.copytree(folder, tmp_path / "late")  # another process was faster
    assert sorted(path.name for path in tmp_path.iterdir()) == ["late", "model"]
    assert (tmp_path / "model" / "mine").read_text() == "x"


def test_overwrite_replaces_at_the_end_only(tmp_path: Path) -> None:
    model = tmp_path / "model"
    for text in ("old", "new"):
        with new_folder(model, overwrite=True) as folder:
            (folder / text).write_text(text)
    assert [path.name for path in model.iterdir()] == ["new"]
    with pytest.raises(KeyboardInterrupt), new_folder(model, overwrite=True):
        raise KeyboardInterrupt
    assert [path.name for path in model.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_disk_full_while_writing(tmp_path: Path, error: Exception) -> None:
    full = pytest.raises(ValueError, match=r"the disk is full: cannot write .*model: 5 B needed, .* free")
    with full, new_folder(tmp_path / "model", bytes_needed=5) as folder:
        (folder / "model.safetensors").write_bytes(b"half")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_disk_too_small_is_reported_before_work(tmp_path: Path) -> None:
    full = pytest.raises(ValueError, match=r"the disk is full: .* 1e\+06 TB needed")
    with full, new_folder(tmp_path / "model", bytes_needed=10**18):
        raise AssertionError("the block must not run")
    assert list(tmp_path.iterdir()) == []


def test_write_json_keeps_the_old_file_on_failure(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"a": object()})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_manifest_round_trip(tmp_path: Path) -> None:
    assert Manifest.find(tmp_path) is None
    with pytest.raises(ValueError, match=r"has no manifest.json"):
        Manifest.load(tmp_path)
    manifest = Manifest(
        stage="fused",
        method="width",
        options={"init": "copy"},
        vocabulary={"text_size": 3, "image_size": 2, "eos_id": 0, "sentinels": 1},
        image_grid=[1, 2],
        rows={"text_size": 3, "image_start": 3, "control_start": None, "control_size": 0},
        ancestors=[{"role": "text", "name": "p", "sha256": "0", "architecture": "OPTForCausalLM"}],
        notes=["a note"],
    )
    manifest.save(tmp_path)
    assert Manifest.load(tmp_path) == manifest


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "not valid JSON"),
        ('{"method": null}', "'stage' is missing"),
        ('{"stage": "fused", "stages": 1}', "unknown keys stages"),
        ('{"stage": "fuse"}', "one of parent, fused, aligned, instructed"),
    ],
)
def test_manifest_that_cannot_be_read(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=problem):
        Manifest.load(tmp_path)
