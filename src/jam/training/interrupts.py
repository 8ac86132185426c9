"""Ctrl-C and SIGTERM at the right moment."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Hold Ctrl-C back until the block is done. In other threads, which get none, it does nothing."""
    with signals_noted(signal.SIGINT) as waiting:
        yield
    previous = signal.getsignal(signal.SIGINT)
    if waiting and callable(previous):
        previous(*waiting[0])


@contextmanager
def signals_noted(*signals: signal.Signals) -> Iterator[list[tuple[Any, ...]]]:
    """Signals that come do nothing but go into the list. In other threads, which get none, it stays empty."""
    noted: list[tuple[Any, ...]] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    previous = {one: signal.signal(one, lambda *arguments: noted.append(arguments)) for one in signals}
    try:
        yield noted
    finally:
        for one, handler in previous.items():
            signal.signal(one, handler if handler is not None else signal.SIG_DFL)
