"""The folder of a run: one process at a time writes into it, and a finished run is left as it is."""

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
    """Where a run lies. Every process of the run calls every method.

    Args:
        config: the recipe, a dataclass; its `out` is the folder, its `resume` says whether to go on with what is there.
        result: name of the folder in it that a finished run has.
    """

    def __init__(self, config: Any, world: World, result: str = RESULT) -> None:
        self.path, self.config, self.world, self.result = Path(config.out), config, world, result

    @contextmanager
    def held(self) -> Iterator[None]:
        """The folder is there, and no other process trains in it meanwhile.

        Raises:
            ValueError: another process does; or something else is there, and the run is not to be resumed.
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
        """The one to go on from and what its state says; None: the run begins.

        Raises:
            ValueError: the run has ended, or has begun and is not to be resumed, or its checkpoint is damaged.
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
        """Write the recipe, and which documents are left out; remove what a killed run left unfinished."""
        self.world.on_first(partial(self._begin, left_out))

    def _begin(self, left_out: Sequence[str]) -> None:
        clean(self.path)
        write_json(self.path / RECIPE, asdict(self.config))
        if left_out:
            write_text(self.path / LEFT_OUT, "".join(f"{line}\n" for line in left_out))
