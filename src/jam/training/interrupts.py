"""Ctrl-C and SIGTERM, held back until a safe moment."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Hold Ctrl-C back until the block ends. In other threads than the main one, which get no signals, do nothing."""
    with signals_noted(signal.SIGINT) as waiting:
        yield
    previous = signal.getsignal(signal.SIGINT)
    if waiting and callable(previous):
        previous(*waiting[0])


@contextmanager
def signals_noted(*signals: signal.Signals) -> Iterator[list[tuple[Any, ...]]]:
    """Append signals to the yielded list instead of handling them; other threads than the main one get no signals."""
    noted: list[tuple[Any, ...]] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    previous = {number: signal.signal(number, lambda *arguments: noted.append(arguments)) for number in signals}
    try:
        yield noted
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
