"""Faults that tests plant: a call that goes wrong when its time has come, a full disk, a process that is killed."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
import torch

Fault = Callable[..., Any]  # is called with the function in whose place it stands, and with that one's arguments


def at_call(
    patch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    fault: Fault,
    number: int = 1,
    when: Callable[..., Any] = lambda *_, **__: True,
) -> None:
    """Put a fault in the place of one call of `owner.name`: the `number`-th from now on that `when` holds for."""
    plain, left = getattr(owner, name), number

    def call(*given: Any, **more: Any) -> Any:
        nonlocal left
        if when(*given, **more):
            left -= 1
            if left == 0:
                return fault(plain, *given, **more)
        return plain(*given, **more)

    patch.setattr(owner, name, call)


def raising(error: BaseException, done: bool = False) -> Fault:
    """An error, in the place of what is called or (`done`) behind it."""

    def fault(plain: Callable[..., Any], *given: Any, **more: Any) -> NoReturn:
        if done:
            plain(*given, **more)
        raise error

    return fault


def not_finite(value: float = torch.nan) -> Fault:
    """Logits of the first row that are this value."""

    def fault(plain: Callable[..., torch.Tensor], *given: Any) -> torch.Tensor:
        made = plain(*given)
        made[0] = value
        return made

    return fault


def full_disk(*_: Any, **__: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def name_late(patch: pytest.MonkeyPatch, trainer: Any) -> None:
    """Checkpoints of a run get their names when it waits for them, not between its steps."""
    patch.setattr(trainer.checkpoints, "_is_done", lambda pending: False)
