"""Freed memory that the next step gets again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys, torch
from resource import RUSAGE_SELF, getrusage
from jam.training.allocator import keep_freed_blocks
kept = keep_freed_blocks()
def faults():
    before = getrusage(RUSAGE_SELF).ru_minflt
    torch.ones(2**24)  # 64 MiB
    return getrusage(RUSAGE_SELF).ru_minflt - before
print(kept, min(faults() for _ in range(8)))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of the GNU C library")
@pytest.mark.parametrize("variables", [{}, {"MALLOC_MMAP_THRESHOLD_": "1048576"}])
def test_a_block_is_used_again(variables):
    """Unless someone has set the C library's own variables."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environment | variables, check=True, capture_output=True, text=True, timeout=300)
    kept, faults = done.stdout.split()
    assert kept == str(not variables)
    assert (int(faults) < 1000) == (not variables)  # 64 MiB are 16,384 pages
