"""Threads without work soon sleep, unless the user says otherwise: set before torch is imported, and inherited."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from jam.waiting import VARIABLES

REPORT = (
    "import os, sys; print('torch' in sys.modules, os.environ.get('OMP_WAIT_POLICY'), os.environ.get('GOMP_SPINCOUNT'))"
)
CHILD = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import torch'], check=True, timeout=120)"

IS_GNU = any(Path(torch.__file__).parent.rglob("libgomp*"))


def output(code: str, **changes: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES} | changes
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout + done.stderr


def test_importing_jam_says_it_before_torch_is_imported() -> None:
    assert output(f"import jam; {REPORT}").split() == ["False", "passive", "1000"]


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_users_own_setting_wins(variable: str) -> None:
    value = "active" if variable == "OMP_WAIT_POLICY" else "7"
    found = output(f"import jam; {REPORT}", **{variable: value}).split()
    expected = {"OMP_WAIT_POLICY": "None", "GOMP_SPINCOUNT": "None"} | {variable: value}
    assert found == ["False", expected["OMP_WAIT_POLICY"], expected["GOMP_SPINCOUNT"]]


def test_nothing_is_said_when_torch_is_there() -> None:
    """Its threads have begun, and other programs that start from here are not ours to change."""
    assert output(f"import torch, jam; {REPORT}").split() == ["True", "None", "None"]


@pytest.mark.skipif(not torch.backends.openmp.is_available() or not IS_GNU, reason="torch has another OpenMP library")
@pytest.mark.parametrize(
    "code",
    [
        "import jam, torch",
        pytest.param("import jam.cli, torch", marks=pytest.mark.slow),
        pytest.param(f"import jam; {CHILD}", marks=pytest.mark.slow),
    ],
)
def test_the_library_has_read_it(code: str) -> None:
    """Of this process, of the command line, and of a process that starts from here (workers, examples)."""
    assert "GOMP_SPINCOUNT = '1000'" in output(code, OMP_DISPLAY_ENV="verbose")
    assert "GOMP_SPINCOUNT = '9'" in output(code, OMP_DISPLAY_ENV="verbose", GOMP_SPINCOUNT="9")
