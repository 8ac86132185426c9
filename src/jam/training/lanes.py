"""Threads that each compute some rows of a micro-batch: for small models on a CPU.

Dividing an operation on small tensors among processors takes about as long as the operation. A thread therefore runs
the forward and backward pass of whole rows, and waits for the others once per micro-batch (docs/decisions/0027).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

from jam.models import JointModel

T = TypeVar("T")
R = TypeVar("R")
MOST_GRADIENTS = 2**26  # values of all threads' gradients: 256 MiB; larger models keep the processors busy


class Lanes:
    """Threads that share work in place of torch's threads.

    Args:
        count: number of lanes, which divide torch's threads among them.
    """

    def __init__(self, count: int) -> None:
        self.count, self._threads = count, torch.get_num_threads()
        self._pool = ThreadPoolExecutor(count, "lane")

    def map(self, function: Callable[[T], R], parts: Sequence[T]) -> list[R]:
        """Results of `function` for all parts in order, computed in parallel. Raises the first part's error."""

        def alone(part: T) -> R:
            torch.set_num_threads(self._threads // self.count)  # for this thread; in MKL, for all threads
            return function(part)

        futures = [self._pool.submit(alone, part) for part in parts]
        try:
            wait(futures)
        finally:
            torch.set_num_threads(self._threads)
        return [future.result() for future in futures]


def make_lanes(model: JointModel, device: torch.device, rows: int) -> Lanes | None:
    """Lanes for micro-batches of `rows` rows, or None if lanes are slower or not reproducible.

    None on a GPU, with one thread, for a model that draws random numbers (dropout: threads would draw in any order),
    and if the gradients of all lanes have more than `MOST_GRADIENTS` values.
    """
    count = min(torch.get_num_threads(), rows)
    values = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if device.type != "cpu" or count < 2 or count * values > MOST_GRADIENTS or _draws(model):
        return None
    return Lanes(count)


@torch.no_grad()
def _draws(model: JointModel) -> bool:
    """True if a forward pass in training draws random numbers."""
    was_training = model.training
    with torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        model.train().hidden(torch.zeros(1, 2, dtype=torch.long))
        drew = not torch.equal(before, torch.get_rng_state())
    model.train(was_training)
    return drew
