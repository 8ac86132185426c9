"""Names, shapes and data types of a checkpoint's tensors."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jam.checkpoints.weights import few
from jam.files import FileError

if TYPE_CHECKING:
    import torch

# Names of data types in safetensors -> their names in torch, and bytes of a number.
KINDS = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 1),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 1),
    "F8_E8M0": ("float8_e8m0fnu", 1),
    "C64": ("complex64", 8),
    "U64": ("uint64", 8),
    "U32": ("uint32", 4),
    "U16": ("uint16", 2),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}
KIND_OF = {name: kind for kind, (name, _) in KINDS.items()}
"""Names of data types in safetensors by their names in torch."""


def kind_of(dtype: torch.dtype) -> str:
    """The name of a data type in safetensors. Raises ValueError if there is none."""
    name = str(dtype).removeprefix("torch.")
    if name not in KIND_OF:
        raise ValueError(f"tensors of the data type {name} are not supported; known: {', '.join(KIND_OF)}")
    return KIND_OF[name]


def dtype_of(kind: str) -> torch.dtype:
    """The data type with the name `kind` in safetensors."""
    import torch

    return getattr(torch, KINDS[kind][0])


@dataclass(frozen=True)
class TensorInfo:
    """Shape and data type of a tensor; only `dtype` needs torch.

    Args:
        kind: name of the data type in safetensors, a key of `KINDS`.
    """

    shape: tuple[int, ...]
    kind: str

    @classmethod
    def of(cls, tensor: torch.Tensor) -> TensorInfo:
        return cls(tuple(tensor.shape), kind_of(tensor.dtype))

    @property
    def dtype(self) -> torch.dtype:
        return dtype_of(self.kind)

    @property
    def is_floating_point(self) -> bool:
        return "F" in self.kind

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return KINDS[self.kind][1]

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.count * self.itemsize

    @property
    def rows(self) -> int:
        """Length of the first dimension; a scalar is one row."""
        return self.shape[0] if self.shape else 1

    @property
    def row_shape(self) -> tuple[int, ...]:
        return self.shape[1:]


def check_tensors(
    found: Mapping[str, TensorInfo],
    expected: Mapping[str, tuple[int, ...]],
    what: str,
    ignore: Collection[str] = (),
    config: str = "config.json",
) -> None:
    """Compare the tensors of a checkpoint with the expected names and shapes.

    Args:
        what: name of the checkpoint in the message.
        ignore: names that are allowed but not expected (such as the second name of a tied tensor).
        config: name, in the message, of the file that describes the checkpoint.

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
        f"{len(names)} {problem} ({few(names)})"
        for names, problem in ((missing, "missing"), (extra, "not expected"), (reshaped, "of another shape"))
        if names
    ]
    if problems:
        raise ValueError(
            f"{what} does not fit its {config}: of {len(expected)} expected and {len(found)} found tensors "
            f"{', '.join(problems)}; use the {config} that belongs to these weights"
        )


def check_loaded(info: Mapping[str, Iterable[Any]], what: str) -> None:
    """Raises ValueError if `from_pretrained` did not load all tensors, by its `output_loading_info`."""
    problems = []
    for key, problem in (("missing", "missing"), ("unexpected", "not expected"), ("mismatched", "of another shape")):
        if names := sorted(name if isinstance(name, str) else name[0] for name in info[f"{key}_keys"]):
            problems.append(f"{len(names)} {problem} ({few(names)})")
    if problems:
        raise FileError(
            f"{what}: the tensors do not fit its config.json: {', '.join(problems)}; "
            "use the config.json that belongs to these weights"
        )
