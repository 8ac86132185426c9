"""Devices and data types from names that the user gives."""

from __future__ import annotations

import torch

from jam.files import MAX_REASON

DTYPES = ("float32", "bfloat16", "float16")


def choose_device(name: str | torch.device | None) -> str:
    """The name of a usable device; by default the GPU if there is one. Raises ValueError for an unusable device."""
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if name is None else name
    try:
        if not isinstance(chosen, str | torch.device):
            raise ValueError("give its name as a string, like cuda:1")
        if torch.empty(0, device=chosen).is_meta:
            raise ValueError("tensors there have no values")
    except Exception as error:  # torch raises any error, by the kind of device
        problem = str(error).partition("\n")[0][:MAX_REASON]
        raise ValueError(f"device {chosen!r:.80} cannot be used ({problem}); try --device cpu") from None
    return str(chosen)


def choose_dtype(name: str | torch.dtype | None) -> torch.dtype | None:
    """The data type for weights; None stays None. Raises ValueError for a type that weights cannot have."""
    if name is None or (isinstance(name, torch.dtype) and name.is_floating_point):
        return name
    if name not in DTYPES:
        raise ValueError(f"dtype is {name!r:.80}; it must be one of {', '.join(DTYPES)}")
    return getattr(torch, name)
