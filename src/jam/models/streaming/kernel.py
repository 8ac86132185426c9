"""The kernel of `few_rows.cpp`: built by the machine's compiler at first use, kept in torch's folder of extensions."""

from __future__ import annotations

import logging
import subprocess
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.utils import cpp_extension

SOURCE = Path(__file__).with_name("few_rows.cpp")
FLAGS = {
    "AVX512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma"],
    "AVX2": ["-mavx2", "-mfma"],
}
MOST_ROWS = 64  # a library's matrix product, which packs the weights, is better beyond
DTYPES = (torch.float32, torch.bfloat16)  # of x

logger = logging.getLogger(__name__)


loaded = False


@cache
def load_kernel() -> bool:
    """Whether there is a kernel; the first call of a process loads it, and that of a machine builds it (10 seconds)."""
    global loaded
    capability = torch.backends.cpu.get_cpu_capability()
    try:
        cpp_extension.load(
            f"jam_few_rows_{capability.lower().replace(' ', '_')}",  # a home may be shared by different processors
            [str(SOURCE)],
            extra_cflags=["-O3", "-fopenmp", *FLAGS.get(capability, [])],
            is_python_module=False,
        )
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        logger.warning("decoding is slower than it could be: a C++ compiler and ninja are needed (%s)", reason)
        return False
    torch.library.register_fake("jam::few_rows", lambda x, weight, scale, bias: x.new_empty(*x.shape[:-1], len(weight)))
    loaded = True
    return True


def few_rows(x: Tensor, weight: Tensor, scale: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """``(x W^T) * scale + bias``, [..., K] to [..., N], without gradients; see `takes`.

    Args:
        x: float32 or bfloat16; sums are float32.
        weight: [N, K], contiguous, in float32, bfloat16 or int8.
        scale: float32 [N]; bias: [N].
    """
    return torch.ops.jam.few_rows(x, weight, scale, bias)


def takes(x: Tensor) -> bool:
    """Whether the kernel is the better choice for x [..., K]."""
    return (
        loaded
        and x.device.type == "cpu"
        and x.numel() <= MOST_ROWS * x.shape[-1]
        and x.dtype in DTYPES
        and not torch.is_grad_enabled()
    )
