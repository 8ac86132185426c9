"""Files of weights that safetensors refuses, or that say two things: none is read as if it were sound."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from jam.checkpoints import CheckpointReader, write_json

KINDS = pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])


def floats(shape: Any, *place: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": list(place)}


def write(path: Path, entries: dict[str, Any], size: int) -> None:
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(range(size)))


@pytest.mark.parametrize(
    ("entries", "size", "problem"),
    [
        ({"a": floats([2], 0, 8), "b": floats([2], 4, 12), "c": floats([1], 12, 16)}, 16, "has b begin at byte 4"),
        (
            {"a": floats([2], 0, 8), "b": floats([1], 12, 16)},
            16,
            "has b begin at byte 12, and those before it end at 8",
        ),
        ({"a": floats([2], 0, 8), "b": floats([2], 0, 8)}, 8, "has b begin at byte 0"),
        ({"a": floats([1], 4, 8)}, 8, "has a begin at byte 4, and those before it end at 0"),
        ({"a": floats([1], 0, 4)}, 8, r"describes \d+ bytes, the file has \d+"),
        ({"a": floats([-2, -1], 0, 8)}, 8, r"gives a the shape \[-2, -1\]"),
        ({"a": floats([2.0], 0, 8)}, 8, r"gives a the shape \[2.0\]"),
        ({"a": floats([True], 0, 4)}, 4, r"gives a the shape \[True\]"),
        ({"a": floats([2], 0, 8, 8)}, 8, r"gives a .* at bytes \[0, 8, 8\]"),
    ],
)
def test_what_safetensors_refuses(tmp_path: Path, entries: dict[str, Any], size: int, problem: str) -> None:
    path = tmp_path / "model.safetensors"
    write(path, entries, size)
    with pytest.raises(ValueError, match=rf"model.safetensors is damaged: its header {problem}.*; fetch it again"):
        CheckpointReader(tmp_path)
    with pytest.raises(SafetensorError), safe_open(path, "pt"):
        pass


def test_order_of_the_header_and_empty_tensors(tmp_path: Path) -> None:
    entries = {
        "b": floats([1], 8, 12),
        "none": floats([0, 3], 8, 8),
        "a": floats([2], 0, 8),
        "scalar": floats([], 12, 16),
    }
    write(tmp_path / "model.safetensors", entries, 16)
    reader = CheckpointReader(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert all(torch.equal(reader.read(name), file.get_tensor(name)) for name in entries)


def write_shards(folder: Path, kind: str, tensors: list[str], index: dict[str, int]) -> None:
    """Two files, whose tensors hold the file's number.

    Args:
        kind: of the files, "model.safetensors" or "pytorch_model.bin".
        tensors: names in the first and in the second file, a letter each.
        index: number of the file that the index names for a tensor.
    """
    stem, _, suffix = kind.partition(".")
    files = [f"{stem}-0000{number}-of-00002.{suffix}" for number in (1, 2)]
    for number, (file, names) in enumerate(zip(files, tensors, strict=True), start=1):
        (torch.save if suffix == "bin" else save_file)({name: torch.tensor([number]) for name in names}, folder / file)
    weight_map = {name: files[number - 1] for name, number in index.items()}
    write_json(folder / f"{kind}.index.json", {"weight_map": weight_map})


@KINDS
def test_a_tensor_in_two_files(tmp_path: Path, kind: str) -> None:
    write_shards(tmp_path, kind, ["xy", "xz"], {"x": 1, "y": 1, "z": 2})
    with pytest.raises(
        ValueError, match=r"model-00002-of-.* and .*model-00001-of-.* both hold x, and may differ; save"
    ):
        CheckpointReader(tmp_path)


@KINDS
def test_a_tensor_in_another_file_than_the_index_says(tmp_path: Path, kind: str) -> None:
    write_shards(tmp_path, kind, ["x", "yz"], {"x": 1, "y": 1, "z": 2})
    message = (
        r"index.json says that y lies in .*model-00001-of-.*, but .*model-00002-of-.* holds it: the index is of other"
    )
    with pytest.raises(ValueError, match=message):
        CheckpointReader(tmp_path)


@KINDS
def test_a_tensor_that_the_index_leaves_out(tmp_path: Path, kind: str) -> None:
    """Older checkpoints have some that no model asks for."""
    write_shards(tmp_path, kind, ["xz", "y"], {"x": 1, "y": 2})
    reader = CheckpointReader(tmp_path)
    assert {name: int(reader.read(name)) for name in reader.infos} == {"x": 1, "z": 1, "y": 2}
