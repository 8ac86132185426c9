"""The folder of a run: one process at a time writes into it, and a finished run never changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from jam.checkpoints import write_json
from jam.checkpoints.folders import refuse_existing
from jam.checkpoints.locks import only_one
from jam.files import write_text
from jam.training.checkpoint import checkpoints, clean, read_state, require_whole
from jam.training.distributed import World

RESULT, RECIPE = "model", "recipe.json"
LEFT_OUT = "left_out.txt"  # documents that cannot be split for the context, a line each
LOCK = ".lock"


class RunFolder:
    """The folder of a run. Every process of the run calls every method.

    Args:
        config: the recipe, a dataclass; `out` is the folder, `resume` allows to continue an earlier run.
        result: name of the result in the folder, which only a finished run has.
    """

    def __init__(self, config: Any, world: World, result: str = RESULT) -> None:
        self.path, self.config, self.world, self.result = Path(config.out), config, world, result

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder and hold its lock, so that no other process trains in the folder during the block.

        Raises:
            ValueError: another process holds the lock; or `out` exists, is no run, and `resume` is False.
        """
        with ExitStack() as lock:
            self.world.on_first(partial(self._hold, lock))
            yield

    def _hold(self, lock: ExitStack) -> None:
        known = (self.path / LOCK).exists() or checkpoints(self.path) or (self.path / self.result).exists()
        if not (self.config.resume or known):
            refuse_existing(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        lock.enter_context(only_one(self.path / LOCK, self.path))

    def last_checkpoint(self) -> tuple[Path, dict[str, Any]] | None:
        """The checkpoint to resume from and its state, or None if the run begins.

        Raises:
            ValueError: the run has ended, has begun and `resume` is False, or has a damaged checkpoint.
        """
        return self.world.on_first(self._last_checkpoint)

    def _last_checkpoint(self) -> tuple[Path, dict[str, Any]] | None:
        found = checkpoints(self.path)
        if (self.path / self.result).exists():
            raise ValueError(f"{self.path} holds a finished run; choose another --out or remove it")
        if found and not self.config.resume:
            raise ValueError(f"{self.path} holds a run at {found[-1].name}; pass --resume, or choose another --out")
        if not found:
            if not self.config.resume and (self.path / RECIPE).exists():
                refuse_existing(self.path)
            return None
        state = read_state(found[-1])
        require_whole(found[-1], state)
        return found[-1], state

    def begin(self, left_out: Sequence[str] = ()) -> None:
        """Write the recipe and the list of left-out documents, and remove unfinished files of a killed run."""
        self.world.on_first(partial(self._begin, left_out))

    def _begin(self, left_out: Sequence[str]) -> None:
        clean(self.path)
        write_json(self.path / RECIPE, asdict(self.config))
        if left_out:
            write_text(self.path / LEFT_OUT, "".join(f"{line}\n" for line in left_out))
