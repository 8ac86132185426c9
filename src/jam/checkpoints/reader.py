"""A lazy reader of a checkpoint folder's tensors: whole tensors, or some of their rows.

Safetensors files are read directly (an 8-byte length, a JSON header, the raw bytes) instead of memory-mapped, since the
pages of a mapped file count as resident memory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from jam.checkpoints.plain import load_plain
from jam.checkpoints.tensors import KINDS, TensorInfo
from jam.checkpoints.weights import damaged, few, find_weights, weight_files
from jam.files import FileError, open_regular, parse_json, reason

if TYPE_CHECKING:
    from torch import Tensor

MAX_HEADER = 100_000_000  # bytes, as in the safetensors library


class CheckpointReader:
    """The tensors of a folder: a single file or shards, safetensors or (older ones) `.bin`.

    Attributes:
        infos: shape and dtype of every tensor by name; nothing else is read before `read`.
        files: the files that hold the tensors.

    Raises:
        ValueError: there are no weights, a file is missing or damaged, a tensor is in two files, or files and index do
            not belong together.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        entry, weight_map = find_weights(self.folder)
        self.files = weight_files(self.folder)
        self._shards: dict[str, _Safetensors | _Legacy] = {}
        for path in self.files:
            if not path.is_file():
                raise ValueError(f"{path} is missing; the index names {len(self.files)} files")
            shard = _Safetensors(path) if path.suffix == ".safetensors" else _Legacy(path)
            if twice := sorted(shard.infos.keys() & self._shards.keys()):
                first = self._shards[twice[0]].path.name
                raise ValueError(
                    f"{path} and {first} both hold {few(twice)}, and may differ; save the model again, each in one file"
                )
            self._shards |= dict.fromkeys(shard.infos, shard)
        if absent := sorted(weight_map.keys() - self._shards.keys()):
            raise ValueError(f"{entry} names {len(absent)} tensors that its files do not hold: {few(absent)}")
        for name, named in weight_map.items():
            if named != (found := self._shards[name].path.name):
                raise ValueError(
                    f"{entry} says that {name} lies in {named}, but {found} holds it: the index is of other files; "
                    "fetch it again"
                )
        self.infos = {name: shard.infos[name] for name, shard in self._shards.items()}

    def read(self, name: str) -> Tensor:
        """One tensor, on the CPU, in the file's dtype."""
        info = self.infos[name]
        return self.read_rows(name, 0, info.rows).view(info.shape)

    def read_rows(self, name: str, start: int, stop: int, buffer: Tensor | None = None) -> Tensor:
        """Rows `start` to `stop` of a tensor, ``[stop - start, *row_shape]``, in the file's dtype.

        Args:
            buffer: memory of the result, uint8 with one dimension; default: new memory.
        """
        return self._shards[name].read_rows(name, start, stop, buffer)


def tensor_names(path: Path) -> list[str]:
    """Names of the tensors in one file. Raises ValueError as `CheckpointReader` does."""
    return list((_Safetensors(path) if path.suffix == ".safetensors" else _Legacy(path)).infos)


class _Safetensors:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open_regular(path)
        self._fd = self._file.fileno()
        self.infos, self._starts = self._parse_header()

    def _parse_header(self) -> tuple[dict[str, TensorInfo], dict[str, int]]:
        size = os.fstat(self._fd).st_size
        length = int.from_bytes(os.pread(self._fd, 8, 0), "little")
        if length > min(size - 8, MAX_HEADER):
            raise FileError(f"{self.path} is truncated or no safetensors file ({size} bytes); fetch it again")
        try:
            header = parse_json(os.pread(self._fd, length, 8), "it")
            header.pop("__metadata__", None)
            entries = [
                (name, str(entry["dtype"]), tuple(entry["shape"]), tuple(entry["data_offsets"]))
                for name, entry in header.items()
            ]
        except (AttributeError, KeyError, TypeError, FileError) as error:
            raise damaged(self.path, f"its header cannot be read ({reason(error)})") from None
        infos, starts, places = {}, {}, []
        for name, dtype, shape, place in entries:
            if dtype not in KINDS and not re.fullmatch(r"[A-Z]+\d+\w*", dtype):
                raise damaged(self.path, f"{name} is of the unknown data type {dtype}")
            if dtype not in KINDS:
                raise ValueError(
                    f"{self.path}: {name} is of the data type {dtype}, which is not read here (smaller than a byte, or "
                    "newer than this program); give the model in float32, float16 or bfloat16"
                )
            if len(place) != 2 or not all(type(number) is int and number >= 0 for number in shape + place):
                raise damaged(self.path, f"its header gives {name} the shape {list(shape)} at bytes {list(place)}")
            infos[name] = TensorInfo(shape, dtype)
            if place[1] - place[0] != infos[name].bytes:
                raise damaged(self.path, f"its header gives {name} {place[1] - place[0]} of {infos[name].bytes} bytes")
            starts[name] = 8 + length + place[0]
            places.append((*place, name))
        end = 0
        for start, stop, name in sorted(places):
            if start != end:
                raise damaged(
                    self.path, f"its header has {name} begin at byte {start}, and those before it end at {end}"
                )
            end = stop
        if size != 8 + length + end:
            raise damaged(self.path, f"its header describes {8 + length + end} bytes, the file has {size}")
        return infos, starts

    def read_rows(self, name: str, start: int, stop: int, buffer: Tensor | None) -> Tensor:
        import torch

        info = self.infos[name]
        rows = TensorInfo((stop - start, *info.row_shape), info.kind)
        data = torch.empty(rows.bytes, dtype=torch.uint8) if buffer is None else buffer[: rows.bytes]
        view, position = data.numpy().data, self._starts[name] + start * (info.bytes // max(info.rows, 1))
        while view:  # one system call reads 2 GiB at most
            count = os.preadv(self._fd, [view], position)
            if not count:
                raise ValueError(f"{self.path} became shorter while it was read")
            view, position = view[count:], position + count
        return data.view(info.dtype).view(rows.shape)


class _Legacy:
    """The tensors of a `.bin` file of older parents; only plain values and tensors are unpickled.

    The file is memory-mapped; a file older than torch 1.6 cannot be mapped, and is read into memory.
    """

    def __init__(self, path: Path) -> None:
        import torch

        self.path = path
        loaded = load_plain(path, mmap=True)
        entries = loaded if isinstance(loaded, Mapping) else {}
        self._tensors: dict[str, Tensor] = {
            key: value for key, value in entries.items() if isinstance(value, torch.Tensor)
        }
        if not self._tensors:
            inner = [str(key) for key, value in entries.items() if isinstance(value, Mapping)]
            where = f"; they may be inside {few(inner)}: save that alone" if inner else ""
            raise ValueError(f"{path} holds no tensors by name{where}")
        for name, tensor in self._tensors.items():
            if tensor.layout != torch.strided or tensor.is_quantized:
                kind = "quantised" if tensor.is_quantized else "sparse"
                raise ValueError(f"{path}: {name} is a {kind} tensor, which is not read here; save it as a plain one")
        self.infos = {name: TensorInfo.of(tensor) for name, tensor in self._tensors.items()}

    def read_rows(self, name: str, start: int, stop: int, buffer: Tensor | None) -> Tensor:
        info = self.infos[name]
        rows = self._tensors[name].reshape(info.rows, *info.row_shape)[start:stop]
        return rows.clone() if buffer is None else buffer[: rows.nbytes].view(rows.dtype).view(rows.shape).copy_(rows)
