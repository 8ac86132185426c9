"""One thread at a time, and no waiting for another one."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from threading import RLock
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class HasLock(Protocol):
    lock: Any  # an RLock, whose type has no public name


S = TypeVar("S", bound=HasLock)


class InUseError(RuntimeError):
    """Another thread is using what one thread at a time may use."""


def new_lock() -> Any:
    return RLock()


def in_one_thread(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """The method, which raises InUseError while another thread is in one with the same `lock`."""

    @wraps(method)
    def alone(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        if not self.lock.acquire(blocking=False):
            raise InUseError(
                "another thread is using this engine; use one engine from one thread at a time: put the requests "
                "through an EngineLoop, or make an engine each"
            )
        try:
            return method(self, *args, **kwargs)
        finally:
            self.lock.release()

    return alone
