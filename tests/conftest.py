"""Tests run on one thread: tiny models are faster so, and results do not depend on the machine."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
