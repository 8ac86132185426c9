"""Rows of a micro-batch apart, each part by a thread of its own: for small models on a CPU.

Operations on small tensors take little more time than several processors need to share them. So a thread takes whole
rows through forward and backward pass alone, and meets the others once a micro-batch (docs/decisions/0027).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

from jam.models import JointModel

T = TypeVar("T")
R = TypeVar("R")
MOST_GRADIENTS = 2**26  # values of the gradients of all threads: 256 MiB. Larger models keep the processors busy


class Lanes:
    """Threads that divide what torch's threads do otherwise.

    Args:
        count: how many; torch's threads are divided among them.
    """

    def __init__(self, count: int) -> None:
        self.count, self._threads = count, torch.get_num_threads()
        self._pool = ThreadPoolExecutor(count, "lane")

    def map(self, function: Callable[[T], R], parts: Sequence[T]) -> list[R]:
        """`function` of every part, all at the same time, in order. Raises the first one's error."""

        def alone(part: T) -> R:
            torch.set_num_threads(self._threads // self.count)  # of this thread, but for MKL of all
            return function(part)

        futures = [self._pool.submit(alone, part) for part in parts]
        try:
            wait(futures)
        finally:
            torch.set_num_threads(self._threads)
        return [future.result() for future in futures]


def make_lanes(model: JointModel, device: torch.device, rows: int) -> Lanes | None:
    """Lanes for micro-batches of so many rows, where they are faster and what they compute is a function of the seed.

    None on a GPU, with one thread, for a model that draws random numbers (dropout: the order of the draws would be
    that of the threads), and where the gradients of all lanes are more than `MOST_GRADIENTS`.
    """
    count = min(torch.get_num_threads(), rows)
    values = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if device.type != "cpu" or count < 2 or count * values > MOST_GRADIENTS or _draws(model):
        return None
    return Lanes(count)


@torch.no_grad()
def _draws(model: JointModel) -> bool:
    """Whether a forward pass in training draws random numbers."""
    was_training = model.training
    with torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        model.train().hidden(torch.zeros(1, 2, dtype=torch.long))
        drew = not torch.equal(before, torch.get_rng_state())
    model.train(was_training)
    return drew
