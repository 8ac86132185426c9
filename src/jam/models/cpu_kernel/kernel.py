"""The kernel of `few_rows.cpp`, built by the machine's compiler on first use, in torch's folder of extensions."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torch.utils import cpp_extension

SOURCE = Path(__file__).with_name("few_rows.cpp")
FLAGS = {
    "AVX512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma"],
    "AVX2": ["-mavx2", "-mfma"],
}
MOST_ROWS = 64  # for more rows, a library's matrix product, which packs the weights, is faster
DTYPES = (torch.float32, torch.bfloat16)  # of x

logger = logging.getLogger(__name__)


loaded = False


@cache
def load_kernel() -> bool:
    """True if there is a kernel; the first call of a process loads it, the first call of a machine builds it (10 s)."""
    global loaded
    try:
        library = library_path()
        if library.exists():
            torch.ops.load_library(library)
        else:
            _build(library)
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        logger.warning("decoding is slower than it could be: a C++ compiler and ninja are needed (%s)", reason)
        return False
    torch.library.register_fake("jam::few_rows", lambda x, weight, scale, bias: x.new_empty(*x.shape[:-1], len(weight)))
    loaded = True
    return True


def library_path() -> Path:
    """The library's path; different processors, releases and versions of torch may share a home folder."""
    build = (torch.__version__, sys.implementation.cache_tag, torch.backends.cpu.get_cpu_capability(), *_flags())
    digest = hashlib.sha256(SOURCE.read_bytes() + repr(build).encode()).hexdigest()[:16]
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or cpp_extension.get_default_build_root()
    return Path(root) / "jam" / f"few_rows_{digest}{cpp_extension.LIB_EXT}"


def _flags() -> list[str]:
    return ["-O3", "-fopenmp", *FLAGS.get(torch.backends.cpu.get_cpu_capability(), [])]


def _build(library: Path) -> None:
    """Build and load the library in a temporary folder: a killed build leaves no lock and no partial library."""
    library.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=library.parent) as folder:
        cpp_extension.load(
            library.stem, [str(SOURCE)], extra_cflags=_flags(), build_directory=folder, is_python_module=False
        )
        os.replace(Path(folder) / library.name, library)


def few_rows(x: Tensor, weight: Tensor, scale: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """``(x W^T) * scale + bias``, [..., K] to [..., N], without gradients; see `takes`.

    Args:
        x: float32 or bfloat16; sums are float32.
        weight: [N, K], contiguous, in float32, bfloat16 or int8.
        scale: float32 [N]; bias: [N].
    """
    return torch.ops.jam.few_rows(x, weight, scale, bias)


def takes(x: Tensor) -> bool:
    """True if the kernel is loaded and the better choice for x [..., K]."""
    return (
        loaded
        and x.device.type == "cpu"
        and 0 < x.numel() <= MOST_ROWS * x.shape[-1]
        and x.dtype in DTYPES
        and not torch.is_grad_enabled()
    )
