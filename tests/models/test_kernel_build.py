"""The kernel's library: built once, under a name that says what it was made of; without it everything still works."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils import cpp_extension

from jam.models.cpu_kernel import kernel


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(torch.library, "register_fake", lambda *given: None)
    monkeypatch.setattr(kernel, "loaded", False)
    return tmp_path / "jam"


def load() -> bool:
    """As a new process does it."""
    return kernel.load_kernel.__wrapped__()


def test_a_library_is_built_aside_once_and_then_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built, loaded = [], []

    def build(name: str, sources: list[str], build_directory: str, **options: Any) -> None:
        assert Path(build_directory).parent == folder and not kernel.library_path().exists()
        Path(build_directory, "lock").touch()
        Path(build_directory, f"{name}{cpp_extension.LIB_EXT}").write_text("library")
        built.append(options["extra_cflags"])

    monkeypatch.setattr(cpp_extension, "load", build)
    monkeypatch.setattr(torch.ops, "load_library", loaded.append)
    assert load() and load() and load()
    assert len(built) == 1 and loaded == 2 * [kernel.library_path()]
    assert list(folder.iterdir()) == [kernel.library_path()]


def test_what_a_killed_build_leaves_is_in_nobodys_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(name: str, sources: list[str], build_directory: str, **_: Any) -> None:
        Path(build_directory, "lock").touch()
        Path(build_directory, f"{name}{cpp_extension.LIB_EXT}").write_text("half a libr")
        raise KeyboardInterrupt

    monkeypatch.setattr(cpp_extension, "load", killed)
    with pytest.raises(KeyboardInterrupt):
        load()
    assert not list(folder.glob("*few_rows*"))


def test_the_name_tells_builds_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {kernel.library_path().name}
    other = tmp_path / "few_rows.cpp"
    other.write_bytes(kernel.SOURCE.read_bytes() + b"\n")
    for owner, name, value in (
        (kernel, "SOURCE", other),
        (torch, "__version__", "2.99"),
        (torch.backends.cpu, "get_cpu_capability", lambda: "NO AVX"),
        (kernel, "_flags", lambda: ["-O0"]),
    ):
        with monkeypatch.context() as context:
            context.setattr(owner, name, value)
            names.add(kernel.library_path().name)
    assert len(names) == 5


@pytest.mark.parametrize("what", ["compiler", "folder", "library"])
def test_without_a_kernel_there_is_one_warning(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    if what == "compiler":
        monkeypatch.setenv("CXX", "/nowhere/c++")
        monkeypatch.setenv("PATH", "")
    elif what == "folder":
        folder.write_text("a file")
    else:
        folder.mkdir()
        kernel.library_path().write_text("no library")
    with caplog.at_level(logging.WARNING, logger=kernel.logger.name):
        assert not load()
    assert [record.message[:44] for record in caplog.records if record.name == kernel.logger.name] == [
        "decoding is slower than it could be: a C++ c"
    ]
    assert not kernel.loaded and not kernel.takes(torch.ones(1, 8))
