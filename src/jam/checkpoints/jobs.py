"""Jobs in a few threads. Reading, hashing, writing and arithmetic on large blocks run outside Python's lock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Jobs:
    """Threads that share work; the first error, or an interrupt, stops all threads.

    A long job checks `stopped` now and then, and returns early if it is set.

    >>> with Jobs(4) as jobs:
    ...     found = jobs.submit(sum, [1, 2])
    >>> found.result()
    3
    """

    def __init__(self, threads: int) -> None:
        import torch

        self.stopped = threading.Event()
        self._futures: list[Future[Any]] = []
        # The threads share the processors already, so none divides its arithmetic further.
        self._torch_threads = torch.get_num_threads()
        self._set_threads = torch.set_num_threads
        self._pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))

    def submit(self, function: Callable[..., R], *arguments: Any) -> Future[R]:
        future = self._pool.submit(function, *arguments)
        self._futures.append(future)
        return future

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Results of `function` for all items, in order."""
        futures = [self.submit(function, item) for item in items]
        return [future.result() for future in futures]

    def wait(self) -> None:
        """Wait for all jobs so far. Raises the first error."""
        for future in as_completed(self._futures):
            future.result()
        self._futures.clear()

    def __enter__(self) -> Jobs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.wait()
        except BaseException:
            self.stopped.set()
            raise
        finally:
            if error is not None:
                self.stopped.set()
            self._pool.shutdown(cancel_futures=True)
            self._set_threads(self._torch_threads)
