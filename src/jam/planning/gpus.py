"""GPUs by name, with their makers' figures of memory and of bf16 matrix products without sparsity."""

from __future__ import annotations

import difflib
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """A GPU; memory: in GB (10^9 bytes); tflops: dense bf16 operations, in 10^12 per second."""

    name: str
    memory: float
    tflops: float


# For NVIDIA's cards, "GB" are GiB; a program can use a little less (`USABLE` in `plan`).
_TABLE = """
a10-24gb            24  125
a100-40gb           40  312
a100-80gb           80  312
b200-180gb         180  2250
gb200-186gb        186  2500
h100-80gb           80  989
h100-nvl-94gb       94  835
h200-141gb         141  989
l4-24gb             24  121
l40s-48gb           48  362
mi300x-192gb       192  1307
rtx-3090-24gb       24  71
rtx-4090-24gb       24  165
rtx-5090-32gb       32  209
rtx-a6000-48gb      48  155
v100-32gb           32  125
"""
GPUS = {
    name: Gpu(name, float(memory) * 2**30 / 1e9, float(tflops))
    for name, memory, tflops in (line.split() for line in _TABLE.strip().splitlines())
}


def find_gpu(name: str) -> Gpu:
    """The GPU with this name or unique prefix of a name. Raises ValueError with the nearest names, or all."""
    key = name.lower().replace("_", "-").replace(" ", "-")
    fitting = [known for known in GPUS if known == key] or [known for known in GPUS if known.startswith(key + "-")]
    if len(fitting) == 1:
        return GPUS[fitting[0]]
    near = fitting or difflib.get_close_matches(key, GPUS, n=3, cutoff=0.5) or list(GPUS)
    raise ValueError(f"unknown GPU {name!r}; choose one of {', '.join(near)}")
