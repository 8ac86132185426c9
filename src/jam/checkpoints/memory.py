"""Available memory, and a clear error before loading a model that does not fit into memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import torch

from jam.checkpoints.tensors import TensorInfo

# A container's memory in version 2 and 1 of cgroup: folder, limit, usage, and prefix of entries of memory.stat.
CONTAINERS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current", ""),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
)


def available_memory(device: str | torch.device) -> int | None:
    """Available bytes on a device, or None for a kind of device that does not tell."""
    device = torch.device(device)
    if device.type == "cuda":
        kept_by_torch = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept_by_torch
    if device.type != "cpu":
        return None
    return min([psutil.virtual_memory().available, *_left_in_container()])


def _left_in_container() -> Iterator[int]:
    for folder, limit, usage, prefix in CONTAINERS:
        path = Path(folder)
        if not (path / limit).is_file() or (most := (path / limit).read_text().strip()) == "max":
            continue
        stat = dict(line.split() for line in (path / "memory.stat").read_text().splitlines())
        cached = int(stat[f"{prefix}active_file"]) + int(stat[f"{prefix}inactive_file"])  # can be freed
        yield int(most) - int((path / usage).read_text()) + cached


def require_memory(
    what: str,
    tensors: Iterable[TensorInfo],
    dtype: torch.dtype | None,
    device: str | torch.device,
    spread: bool = False,
) -> None:
    """Raises ValueError, with advice, if tensors are larger than the available memory of a device.

    Args:
        what: name of the tensors in the message.
        dtype: data type of the loaded tensors; None: as stored.
        spread: True for a model whose layers may wait in other memory (--device-map).
    """
    infos = list(tensors)
    available = available_memory(device)
    needed = _bytes(infos, dtype)
    if available is None or needed <= available:
        return
    in_half = _bytes(infos, torch.bfloat16)
    if in_half >= needed:
        remedy = "choose a --device with more memory, or make room"
    elif in_half <= available:
        remedy = f"--dtype bfloat16 needs {_gib(in_half)}, which fits; or choose another --device"
    else:
        remedy = f"--dtype bfloat16 still needs {_gib(in_half)}: choose a --device with more memory"
    if spread:
        remedy += "; or --device-map auto (to generate and to evaluate), with which layers wait elsewhere"
    name = str(dtype).removeprefix("torch.") if dtype else "the data types that it is stored in"
    raise ValueError(f"{what} needs {_gib(needed)} in {name}, {_gib(available)} available on {device}; {remedy}")


def _bytes(infos: Iterable[TensorInfo], dtype: torch.dtype | None) -> int:
    return sum(info.count * (dtype.itemsize if dtype else info.itemsize) for info in infos)


def _gib(count: int) -> str:
    return f"{count / 2**30:.3g} GiB"
