"""What became of a case: done, one clear line, or one of the things that must not happen."""

from __future__ import annotations

import faulthandler
import io
import re
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

OK, CLEAR = "ok", "clear error"
UNCLEAR, TRACEBACK, HANG, LOSS = "unclear error", "traceback", "hang", "silent loss"
FAILURES = (UNCLEAR, TRACEBACK, HANG, LOSS)
LIMIT = 20  # seconds of processor time that a case may take
WAITING = 6  # times as many seconds on the clock: other processes take theirs
MEMORY = 6 * 2**30  # bytes of address space that cases may take beyond what was taken before the first
# Words of parsers, of Python's inside and of test doubles, which say nothing to a person.
JARGON = re.compile(
    r"Parser key|Union subtypes|Namespace\(|Does not validate|typehint|NoneType|subscriptable|object is not|"
    r"has no attribute|unexpected keyword|positional argument|<class |Traceback|Error\(['\"]|at 0x[0-9a-f]+|"
    r"'(?:int|str|list|dict|float|bool)' object|instance of|PosixPath\("
)


class Hang(BaseException):
    """A case took longer than `LIMIT`; nothing that it calls may catch it."""


class Loss(Exception):
    """Documents vanished without a word."""


class Told(Exception):
    """A command's own last word: its exit status and what stands on stderr."""


@dataclass(frozen=True)
class Outcome:
    """`kind` is one of the constants above; `key` is the same for cases that fail in the same way."""

    kind: str
    text: str = ""
    key: str = ""

    @property
    def failed(self) -> bool:
        return self.kind in FAILURES


def judged(call: Callable[[], object], names: Collection[str] = ()) -> Outcome:
    """What becomes of a call.

    Args:
        names: an error names one of these; none: it need not name anything.
    """
    try:
        with quiet(), within(LIMIT):
            call()
    except Hang:
        return Outcome(HANG, traceback.format_exc(), _place())
    except Loss as error:
        return Outcome(LOSS, str(error), str(error)[:40])
    except Told as error:
        return _of_message(str(error), names)
    except ValueError as error:
        return _of_message(str(error), names, traceback.format_exc())
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return Outcome(TRACEBACK, traceback.format_exc(), f"{type(error).__name__} {_place()}")
    return Outcome(OK)


def _of_message(message: str, names: Collection[str], trace: str = "") -> Outcome:
    if "\n" in message.strip():
        problem = "several lines"
    elif found := JARGON.search(message):
        problem = f"says {found[0]!r}"
    elif names and not any(name in message for name in names):
        problem = f"names none of {', '.join(names)}"
    elif not message.strip():
        problem = "says nothing"
    else:
        return Outcome(CLEAR, message)
    return Outcome(
        UNCLEAR, f"{problem}: {message}\n{trace}", f"{problem[:20]} {re.sub(r'[0-9]+|/[^ ]*', '', message)[:50]}"
    )


def _place() -> str:
    """The last line of ours that an error came through."""
    frames = traceback.extract_tb(sys.exc_info()[2])
    ours = [frame for frame in frames if "/jam/" in frame.filename]
    return "{0.filename}:{0.lineno}".format((ours or frames)[-1]) if frames else ""


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raises Hang after so many seconds of work, or `WAITING` times as many of the clock.

    What cannot be interrupted ends this process with a traceback.
    """

    def ring(*_: object) -> None:
        raise Hang

    timers = {signal.SIGPROF: (signal.ITIMER_PROF, seconds), signal.SIGALRM: (signal.ITIMER_REAL, WAITING * seconds)}
    before = {number: signal.signal(number, ring) for number in timers}
    faulthandler.dump_traceback_later(2 * WAITING * seconds, exit=True, file=sys.__stderr__)
    outer = {timer: signal.setitimer(timer, limit) for timer, limit in timers.values()}
    try:
        yield
    finally:
        for timer, left in outer.items():
            signal.setitimer(timer, *left)  # a test's own limit goes on
        faulthandler.cancel_dump_traceback_later()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def quiet() -> Iterator[None]:
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def limit_memory() -> None:
    """From here on a case that fills the memory ends in MemoryError, not in the end of the machine."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def command(*arguments: object) -> None:
    """Run `jam ARGUMENTS` in this process. Raises Told with its last line where its status is 1 or 2."""
    from jam.cli import main

    errors = io.StringIO()
    with redirect_stderr(errors):
        status = main([str(argument) for argument in arguments])
    if status in (1, 2):
        lines = [line for line in errors.getvalue().splitlines() if line.startswith("jam")]
        told = [line for line in errors.getvalue().splitlines() if not line.startswith(("note: ", "left out: "))]
        raise Told("\n".join(told if len(lines) == 1 else [*told, "", "(not one line)"]))
