"""How threads without work wait: briefly, then asleep. OpenMP's libraries read it once, when torch is imported."""

from __future__ import annotations

import os
import sys

# The standard's variable, which LLVM's and Intel's libraries read, and GNU's own, which goes first there: 1,000 turns
# are some 25 microseconds, enough from one operation to the next.
SETTINGS = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}
VARIABLES = (*SETTINGS, "KMP_BLOCKTIME")  # any of which a user may have set


def wait_briefly() -> bool:
    """Let threads without work sleep soon, here and in processes that start from here; True if that was set.

    By default they spin for milliseconds, which takes the processor from whoever has work: beside one other busy
    process a training step took three times as long (docs/decisions/0027). Whoever sets one of `VARIABLES` is left
    alone, and when torch is imported already it is too late.
    """
    if "torch" in sys.modules or any(name in os.environ for name in VARIABLES):
        return False
    os.environ.update(SETTINGS)
    return True
