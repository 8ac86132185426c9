"""Preparations in processes of their own that kill themselves, and what they leave behind."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytest import MonkeyPatch

from jam.data import ShardWriter
from support import faults


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def kill_within(command: Callable[[], object], moment: str, count: int) -> None:
    """Call it in a process that kills itself when it comes to a moment for the `count`-th time."""
    module = sys.modules["jam.data.prepare"]
    owner: Any
    owner, name = {
        "add": (ShardWriter, "add"),
        "flush": (ShardWriter, "flush"),
        "state": (module, "write_json"),
        "finish": (ShardWriter, "finish"),
        "last": (module.shutil, "rmtree"),
    }[moment]
    child = os.fork()
    if not child:

        def die(plain: Any, *given: Any, **more: Any) -> None:
            for file in given[0]._files.values() if owner is ShardWriter and name != "finish" else []:
                file.flush()  # part of a block is on the disk
            faults.die()

        faults.at_call(MonkeyPatch(), owner, name, die, count)
        command()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
