"""Tests run on one thread, and so do the processes that they start: tiny models are faster so, several tests run at a
time, and results do not depend on the machine."""

from __future__ import annotations

import os

import jam  # noqa: F401  it says how threads wait, before torch is imported

# isort: split
import torch

os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
