"""Token shards compared with their checksums, beside the training that reads them."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Thread

from jam.data.shards import Shards


class BackgroundCheck:
    """Compares shards once, in a thread of its own.

    Attributes:
        problem: what was found so far; None: nothing.
    """

    def __init__(self, shards: Sequence[Shards]) -> None:
        self.problem: Exception | None = None
        self._shards, self._stopped = list(shards), False
        self._thread = Thread(target=self._compare, daemon=True)

    def _compare(self) -> None:
        try:
            for one in self._shards:
                one.check(lambda: not self._stopped)
        except Exception as error:
            self.problem = error

    def begin(self) -> None:
        self._thread.start()

    def wait(self) -> None:
        """Return when everything is compared."""
        self._thread.join()

    def stop(self) -> None:
        """Compare nothing more: the training ends."""
        self._stopped = True
