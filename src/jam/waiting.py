"""How threads without work wait: asleep. OpenMP's libraries read it once, when torch is imported."""

from __future__ import annotations

import os
import sys

# The standard's own, and those of GNU's and of Intel's library, all of which a user may have set.
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def wait_asleep() -> bool:
    """Let threads sleep between two operations, here and in processes that start from here; True if that was set.

    By default they spin for some milliseconds, which takes the processor from whoever has work: beside one other busy
    process a training step took three times as long (docs/decisions.md). Whoever sets one of `VARIABLES` is left
    alone, and when torch is imported already it is too late.
    """
    if "torch" in sys.modules or any(name in os.environ for name in VARIABLES):
        return False
    os.environ["OMP_WAIT_POLICY"] = "passive"
    return True
