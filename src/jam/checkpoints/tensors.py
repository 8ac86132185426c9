"""What a checkpoint holds: names, shapes and data types of its tensors."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch

from jam.checkpoints.weights import few

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "C64": torch.complex64,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
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
        f"{len(names)} {problem} ({few(names)})"
        for names, problem in ((missing, "missing"), (extra, "not expected"), (reshaped, "of another shape"))
        if names
    ]
    if problems:
        raise ValueError(
            f"{what} does not fit its {config}: of {len(expected)} expected and {len(found)} found tensors "
            f"{', '.join(problems)}; use the {config} that belongs to these weights"
        )
