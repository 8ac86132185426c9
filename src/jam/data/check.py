"""Comparison of token shards with their checksums, in the background of the training that reads the shards."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Thread

from jam.data.shards import Shards


class BackgroundCheck:
    """Compares shards once, in a separate thread.

    Attributes:
        problem: the first error found so far, or None.
    """

    def __init__(self, shards: Sequence[Shards]) -> None:
        self.problem: Exception | None = None
        self._shards, self._stopped = list(shards), False
        self._thread = Thread(target=self._compare, daemon=True)

    def _compare(self) -> None:
        try:
            for shards in self._shards:
                shards.check(lambda: not self._stopped)
        except Exception as error:
            self.problem = error

    def begin(self) -> None:
        self._thread.start()

    def wait(self) -> None:
        """Wait until all shards are compared."""
        self._thread.join()

    def stop(self) -> None:
        """Stop the comparison, because the training ends."""
        self._stopped = True
