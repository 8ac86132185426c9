"""Tensors of a checkpoint folder, one at a time.

Safetensors files are read and written directly (an 8-byte length, a JSON header, the raw bytes): reading does not map
the file, so resident memory stays at one tensor, and so does writing, however large a shard is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jam.checkpoints.folders import write_json

SAFETENSORS, LEGACY = "model.safetensors", "pytorch_model.bin"
DEFAULT_SHARD_BYTES = 5_000_000_000
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorInfo:
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.count * self.dtype.itemsize


# --- reading -----------------------------------------------------------------------------------------------------


def has_weights(folder: str | Path) -> bool:
    return _find_weights(Path(folder)) is not None


class CheckpointReader:
    """The tensors of a folder: a single file or shards, safetensors or (older ones) `.bin`.

    Attributes:
        infos: shape and dtype of every tensor, by name; nothing else is read before `read`.
        files: the files that hold the tensors.

    Raises:
        ValueError: no weights, a missing or truncated file, or a shard without a tensor that the index promises.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        entry = _find_weights(self.folder)
        if entry is None:
            raise ValueError(f"{folder} holds no weights: there is neither {SAFETENSORS} nor {LEGACY}, nor an index")
        weight_map = json.loads(entry.read_text())["weight_map"] if entry.suffix == ".json" else None
        self.files = [self.folder / name for name in sorted(set(weight_map.values()))] if weight_map else [entry]
        self._shards: dict[str, _Safetensors | _Legacy] = {}
        for path in self.files:
            if not path.is_file():
                raise ValueError(f"{path} is missing; the index names {len(self.files)} files")
            shard = _Safetensors(path) if path.suffix == ".safetensors" else _Legacy(path)
            self._shards |= dict.fromkeys(shard.infos, shard)
        if weight_map and (absent := sorted(weight_map.keys() - self._shards.keys())):
            raise ValueError(f"{entry} names {len(absent)} tensors that its files do not hold: {_few(absent)}")
        self.infos = {name: shard.infos[name] for name, shard in self._shards.items()}

    def read(self, name: str) -> Tensor:
        """One tensor, on the CPU, in the dtype it has in the file."""
        return self._shards[name].read(name)


class _Safetensors:
    def __init__(self, path: Path) -> None:
        self.path = path
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > size - 8:
                raise ValueError(f"{path} is truncated or no safetensors file ({size} bytes)")
            header: dict[str, Any] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        self._starts = {name: 8 + length + entry["data_offsets"][0] for name, entry in header.items()}
        self.infos = {name: TensorInfo(tuple(e["shape"]), DTYPES[e["dtype"]]) for name, e in header.items()}
        end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if size != end:
            raise ValueError(f"{path} is damaged: its header describes {end} bytes, the file has {size}")

    def read(self, name: str) -> Tensor:
        info = self.infos[name]
        data = torch.empty(info.bytes, dtype=torch.uint8)
        view = data.numpy().data
        with self.path.open("rb", buffering=0) as file:
            file.seek(self._starts[name])
            done = 0
            while done < len(view):  # one system call reads 2 GiB at most
                count = file.readinto(view[done:])
                if not count:
                    raise ValueError(f"{self.path} became shorter while it was read")
                done += count
        return data.view(info.dtype).view(info.shape)


class _Legacy:
    """A `.bin` file of older parents; memory-mapped, and never unpickled beyond plain tensors."""

    def __init__(self, path: Path) -> None:
        self._tensors: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        self.infos = {name: TensorInfo(tuple(t.shape), t.dtype) for name, t in self._tensors.items()}

    def read(self, name: str) -> Tensor:
        return self._tensors[name].clone()


def _find_weights(folder: Path) -> Path | None:
    candidates = (SAFETENSORS, f"{SAFETENSORS}.index.json", LEGACY, f"{LEGACY}.index.json")
    return next((folder / name for name in candidates if (folder / name).is_file()), None)


def check_tensors(
    found: Mapping[str, TensorInfo],
    expected: Mapping[str, tuple[int, ...]],
    what: str,
    ignore: Collection[str] = (),
    config: str = "config.json",
) -> None:
    """Compare the tensors of a checkpoint with the expected names and shapes.

    Args:
        what: names the checkpoint in the message.
        ignore: names that may be there although they are not expected (such as the second name of a tied tensor).
        config: name of the file that describes the checkpoint, for the message.

    Raises:
        ValueError: tensors are missing, not expected, or of another shape; the message lists a few and counts all.
    """
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected and name not in ignore]
    reshaped = [
        f"{name} {list(found[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name].shape != tuple(shape)
    ]
    problems = [
        f"{len(names)} {problem} ({_few(names)})"
        for names, problem in ((missing, "missing"), (extra, "not expected"), (reshaped, "of another shape"))
        if names
    ]
    if problems:
        raise ValueError(
            f"{what} does not fit its {config}: of {len(expected)} expected and {len(found)} found tensors "
            f"{', '.join(problems)}; use the {config} that belongs to these weights"
        )


def _few(names: Collection[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:4]) + (", ..." if len(listed) > 4 else "")


# --- writing -----------------------------------------------------------------------------------------------------


def write_checkpoint(
    folder: str | Path,
    infos: Mapping[str, TensorInfo],
    compute: Callable[[str], Tensor],
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    on_written: Callable[[int], None] | None = None,
) -> None:
    """Write tensors as safetensors, named as `transformers` names them, computing them one at a time.

    Args:
        infos: what will be written, in this order.
        compute: gives the tensor of a name; called once for each.
        max_shard_bytes: more than this goes into several files with an index; one tensor is never divided.
        on_written: is told the bytes of every tensor written.
    """
    folder = Path(folder)
    shards = _shards(infos, max_shard_bytes)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        stem, suffix = SAFETENSORS.split(".")
        file_name = SAFETENSORS if len(shards) == 1 else f"{stem}-{number:05d}-of-{len(shards):05d}.{suffix}"
        _write_safetensors(folder / file_name, {name: infos[name] for name in names}, compute, on_written)
        weight_map |= dict.fromkeys(names, file_name)
    if len(shards) > 1:
        totals = {"total_parameters": sum(i.count for i in infos.values()), "total_size": _total(infos.values())}
        write_json(folder / f"{SAFETENSORS}.index.json", {"metadata": totals, "weight_map": weight_map})


def _shards(infos: Mapping[str, TensorInfo], max_shard_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for name, info in infos.items():
        if shards[-1] and size + info.bytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += info.bytes
    return shards


def _total(infos: Iterable[TensorInfo]) -> int:
    return sum(info.bytes for info in infos)


def _write_safetensors(
    path: Path,
    infos: Mapping[str, TensorInfo],
    compute: Callable[[str], Tensor],
    on_written: Callable[[int], None] | None,
) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, info in infos.items():
        entry = {"dtype": DTYPE_NAMES[info.dtype], "shape": list(info.shape)}
        header[name] = entry | {"data_offsets": [offset, offset + info.bytes]}
        offset += info.bytes
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # data begin at a multiple of 8, as the format asks
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for name, info in infos.items():
            tensor = compute(name)
            assert (tuple(tensor.shape), tensor.dtype) == (info.shape, info.dtype), (name, tensor.shape, tensor.dtype)
            file.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
            if on_written is not None:
                on_written(info.bytes)
