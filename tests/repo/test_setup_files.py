"""The files around the package agree: constraints and dependencies, the workflow and .ci/run, help and targets."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").is_file())
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def test_constraints_are_versions_that_the_project_allows() -> None:
    """Of every dependency, those of the extras too."""
    settings, versions = project()["project"], pinned()
    lists = [settings["dependencies"], *settings["optional-dependencies"].values()]
    for requirement in (Requirement(line) for lines in lists for line in lines):
        name = canonicalize_name(requirement.name)
        assert name in versions and requirement.specifier.contains(versions[name]), requirement


def test_the_makefile_asks_for_the_torch_of_the_constraints() -> None:
    assert re.findall(r"^TORCH +\?= torch==(.+)$", MAKEFILE, re.MULTILINE) == [pinned()["torch"]]


def test_the_oldest_versions_of_the_workflow_are_the_bounds_of_the_project() -> None:
    workflow = (ROOT / ".github" / "workflows" / "check.yml").read_text(encoding="utf-8")
    requirements = {Requirement(line).name: Requirement(line) for line in project()["project"]["dependencies"]}
    for name in ("torch", "transformers"):
        (oldest,) = re.findall(rf"'{name}==([\d.]+)\.\*'", workflow)
        assert f">={oldest}" in map(str, requirements[name].specifier)


def test_the_workflow_does_what_ci_does() -> None:
    targets = re.findall(r"^make (\S+)", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)
    workflow = (ROOT / ".github" / "workflows" / "check.yml").read_text(encoding="utf-8")
    assert targets and [target for target in targets if f"run: make {target}" not in workflow] == []


def test_help_names_every_target() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True, timeout=60).stdout
    targets = re.findall(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)[0].split()
    assert sorted(re.findall(r"^make (\S+) +\w", shown, re.MULTILINE)) == sorted(targets)


def test_types_come_with_the_package() -> None:
    assert (ROOT / "src" / "jam" / "py.typed").is_file()
    assert "py.typed" in project()["tool"]["setuptools"]["package-data"]["jam"]
