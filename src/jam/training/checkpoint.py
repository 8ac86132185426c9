"""Checkpoints of a run: distributed (DCP), written in the background of the training, and atomic.

``checkpoints/step-NNNNNN`` holds the trained tensors and the optimisers' state, in files of
`torch.distributed.checkpoint` that any number of processes can read, and ``run.json`` with checksums of these files.
An unfinished checkpoint has the name ``.step-NNNNNN.partial``. `jam export` turns a checkpoint into a model folder.
"""

from __future__ import annotations

import re
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException

from jam.checked import require_kind
from jam.checkpoints.checksums import OTHERS, changed, checksums_in, read_sealed, write_sealed
from jam.checkpoints.folders import disk_full, free_bytes, is_disk_full, sync
from jam.files import FileError, reading, reason
from jam.training.distributed import World
from jam.training.plain_reader import PlainReader

STATE = "run.json"
MODEL, OPTIMIZER = "model", "optimizer"  # first parts of tensors' names
STATED = {"step": int, "settings": dict[str, Any], OTHERS: dict[str, str] | None}


def checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    found = [path for path in (run / "checkpoints").glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint atomically, so that half a checkpoint never looks complete."""
    gone = checkpoint.with_name(f".{checkpoint.name}.partial")
    checkpoint.rename(gone)
    shutil.rmtree(gone)


def clean(run: Path) -> None:
    """Remove the unfinished files and folders of a killed run."""
    for place in (run, run / "checkpoints"):
        for left in place.glob(".*.partial*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def kept(run: Path) -> str:
    """The part of a message that names the last checkpoint."""
    found = checkpoints(run)
    return f"the last checkpoint is {found[-1]}" if found else "there is no checkpoint yet"


def remedy(checkpoint: Path) -> str:
    """The end of a message about a damaged checkpoint: what to do."""
    return f"remove {checkpoint}, and --resume goes on from the one before; `jam export --step` takes that, too"


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The contents of a checkpoint's `STATE`. Raises FileError if the file is damaged."""
    return read_sealed(checkpoint / STATE, remedy(checkpoint))


def require_whole(checkpoint: Path, state: dict[str, Any]) -> None:
    """Raises FileError if a checkpoint's files do not have the checksums in `state`."""
    with reading(checkpoint / STATE, remedy(checkpoint)):
        for name, hint in STATED.items():
            require_kind(hint, state.get(name), name)
    if found := changed(checkpoint, state.get(OTHERS) or {}):
        files = ", ".join(found)
        raise FileError(f"{checkpoint} is damaged: {files}: not as {STATE} says it was written; {remedy(checkpoint)}")


@dataclass(frozen=True)
class Rule:
    """The checkpoints to keep: the `last` ones (0: all), those at the ends of epochs, and the best validated one."""

    last: int
    epochs: bool = False
    best: bool = False

    def superfluous(self, states: list[dict[str, Any]]) -> list[int]:
        """Indices of the checkpoints to remove; `states` are the contents of each `STATE`, oldest first."""
        if not self.last:
            return []
        kept = set(range(len(states))[-self.last :])
        if self.epochs:
            kept |= {index for index, state in enumerate(states) if state.get("ends_epoch")}
        measured = [index for index, state in enumerate(states) if state.get("validation") is not None]
        if self.best and measured:
            kept.add(min(measured, key=lambda index: states[index]["validation"]))
        return sorted(set(range(len(states))) - kept)


@dataclass
class _Pending:
    """A checkpoint that is being written."""

    path: Path
    named: Future[None]  # done when the checkpoint has its name, or cannot get it


class Checkpoints:
    """The checkpoints of a run: `save` begins one, `settle` concludes it, and `finish` does so after an error.

    A complete checkpoint gets its name at once, in the background, however the run ends.

    Args:
        run: folder of the run.
        rule: the checkpoints to keep.
        world: the processes, each of which calls every method but `finish` at the same step.
    """

    def __init__(self, run: Path, rule: Rule, world: World) -> None:
        self.run, self.rule, self.world = run, rule, world
        self._pending: _Pending | None = None
        self._background = ThreadPoolExecutor(max_workers=1)

    def save(self, tensors: dict[str, Tensor], state: dict[str, Any], wait: bool = False) -> None:
        """Copy the tensors and write the copies in the background, unless this step has a checkpoint.

        Raises:
            ValueError: the disk is too full for this checkpoint, or was for the previous one; earlier ones stay.
        """
        self.settle(wait=True)
        path = self._path(state["step"])
        if self.world.of_first(path.exists()):
            return
        place = path.with_name(f".{path.name}.partial")
        self.world.on_first(partial(self._make_room, path, place, bytes_of(tensors)))
        writer = dcp.FileSystemWriter(place)
        group, alone = self.world.background, self.world.size == 1
        written = dcp.async_save(dict(tensors), storage_writer=writer, process_group=group, no_dist=alone)
        assert isinstance(written, Future)
        self._pending = _Pending(path, self._background.submit(self._complete, written, place, path, state))
        self.settle(wait)

    def add(self, step: int, state: dict[str, Any]) -> None:
        """Add entries to the `STATE` of a step's checkpoint, and remove checkpoints that the rule does not keep."""
        self.world.on_first(partial(self._add, self._path(step), state))

    def _add(self, path: Path, state: dict[str, Any]) -> None:
        write_sealed(path / STATE, read_state(path) | state)
        self._remove_superfluous()

    def _path(self, step: int) -> Path:
        return self.run / "checkpoints" / f"step-{step:06d}"

    def _make_room(self, path: Path, place: Path, needed: int) -> None:
        shutil.rmtree(place, ignore_errors=True)  # of a run that was killed
        path.parent.mkdir(exist_ok=True)
        if needed > free_bytes(path):
            raise disk_full(path, needed, kept(self.run))

    def settle(self, wait: bool = False) -> None:
        """Conclude the pending checkpoint if it is written, and remove checkpoints that the rule does not keep.

        Args:
            wait: wait until the pending checkpoint is written.

        Raises:
            ValueError: the disk was full.
        """
        pending = self._pending
        if pending is None or not (wait or self._is_done(pending)):
            return
        pending.named.exception()  # waits
        self._pending = None
        try:
            self.world.on_first(partial(self._conclude, pending))
        except (OSError, RuntimeError) as error:
            if is_disk_full(error):
                raise disk_full(pending.path, None, kept(self.run)) from None
            raise

    def finish(self) -> None:
        """Wait, after an error of the run, for the pending checkpoint, which gets its name if it can.

        The background does this process's part, whatever the other processes do. Raises nothing, since the error of
        the run is the one to report.
        """
        pending, self._pending = self._pending, None
        if pending is not None and pending.named.exception() is None and self.world.is_first:
            with suppress(OSError):
                self._remove_superfluous()

    def _complete(self, written: Future[Any], place: Path, path: Path, state: dict[str, Any]) -> None:
        """Wait, in the background, until all processes have written; then the first one names the checkpoint."""
        try:
            written.result()
            if self.world.is_first:
                write_sealed(place / STATE, state | {OTHERS: checksums_in(place, (STATE,))})
                sync(place / STATE)
                sync(place)
                place.rename(path)
                sync(path.parent)
        except (Exception, CheckpointException) as error:
            if self.world.is_first:
                shutil.rmtree(place, ignore_errors=True)
            if isinstance(error, CheckpointException):  # no Exception; holds the processes' errors
                raise next(iter(error.failures.values()))[0] from None
            raise

    def _conclude(self, pending: _Pending) -> None:
        pending.named.result()
        self._remove_superfluous()

    def _remove_superfluous(self) -> None:
        found = checkpoints(self.run)
        for index in self.rule.superfluous([_state_if_whole(path) for path in found]):
            remove(found[index])

    def _is_done(self, pending: _Pending) -> bool:
        return self.world.sum([float(pending.named.done())])[0] == self.world.size


def _state_if_whole(checkpoint: Path) -> dict[str, Any]:
    try:
        return read_state(checkpoint)
    except FileError:  # resuming from this checkpoint raises
        return {}


def bytes_of(tensors: dict[str, Tensor]) -> int:
    """Bytes of tensors in a checkpoint, which holds each tensor once; a divided tensor counts whole."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def state_tensors(parameters: dict[str, nn.Parameter], optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Tensors of a checkpoint: trained parameters ``model/NAME``, optimisers' state ``optimizer/KIND/NAME``."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in parameters.items()}
    found: dict[str, Tensor] = {f"{MODEL}/{name}": parameter.detach() for name, parameter in parameters.items()}
    for optimizer in optimizers:
        for parameter, values in optimizer.state.items():
            found |= {f"{OPTIMIZER}/{kind}/{names[parameter]}": value for kind, value in values.items()}
    return found


def load_tensors(
    checkpoint: Path, parameters: dict[str, nn.Parameter], optimizers: list[torch.optim.Optimizer], world: World
) -> None:
    """Restore parameters and optimisers' state in place; a parameter that never had a gradient has no state.

    Raises:
        ValueError: the checkpoint is of other parameters, or damaged.
    """
    try:
        stored: dict[str, Any] = PlainReader(checkpoint).read_metadata().state_dict_metadata
    except FileError as error:
        raise _damaged(checkpoint, error) from None
    expected = {f"{MODEL}/{name}": tuple(parameter.shape) for name, parameter in parameters.items()}
    found = {name: tuple(entry.size) for name, entry in stored.items() if name.startswith(f"{MODEL}/")}
    if found != expected:
        differing = sorted(name.partition("/")[2] for name, _ in expected.items() ^ found.items())
        raise ValueError(
            f"{checkpoint} does not fit the model: {len(set(differing))} tensors are missing, not trained or of "
            f"another shape ({', '.join(dict.fromkeys(differing[:4]))}); resume with the model of this run"
        )
    target: dict[str, Tensor] = {f"{MODEL}/{name}": parameter.detach() for name, parameter in parameters.items()}
    state_of = {
        parameter: optimizer.state
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for key, entry in stored.items():
        beginning, _, rest = key.partition("/")
        if beginning == OPTIMIZER and optimizers:
            kind, _, name = rest.partition("/")
            parameter = parameters[name]
            if tuple(entry.size) == tuple(parameter.shape):
                value = torch.zeros_like(parameter, dtype=entry.properties.dtype)
            else:  # the fused optimiser keeps step counts on the parameter's device, too
                value = torch.zeros(entry.size, dtype=entry.properties.dtype, device=parameter.device)
            state_of[parameter][parameter][kind] = target[key] = value
    try:
        dcp.load(target, storage_reader=PlainReader(checkpoint), no_dist=world.size == 1)
    except CheckpointException as error:
        raise _damaged(checkpoint, next(iter(error.failures.values()))[0]) from None


def _damaged(checkpoint: Path, error: BaseException) -> ValueError:
    return FileError(f"{checkpoint} is damaged ({reason(error)}); {remedy(checkpoint)}")
