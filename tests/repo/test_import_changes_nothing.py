"""A program that imports all of jam finds `transformers`, torch and its own settings as it left them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import importlib, json, logging, os, pkgutil, sys, warnings
import torch, torch.distributed.checkpoint, transformers, diffusers, huggingface_hub, jam
from transformers.utils import logging as of_transformers
from diffusers.utils import logging as of_diffusers

asked = []
for name in ("filterwarnings", "simplefilter"):
    def watched(*args, name=name, function=getattr(warnings, name), **kwargs):
        asked.append((sys._getframe(1).f_globals["__name__"], name))
        return function(*args, **kwargs)
    setattr(warnings, name, watched)

def state():
    tables = (transformers.AttentionInterface, transformers.AttentionMaskInterface)
    return {
        "attention": [
            {name: id(function) for name, function in table._global_mapping.items() if not name.startswith("jam_")}
            for table in tables
        ],
        "verbosity": [of_transformers.get_verbosity(), of_diffusers.get_verbosity(), logging.root.level],
        "progress bars": [
            of_transformers.is_progress_bar_enabled(), huggingface_hub.utils.are_progress_bars_disabled()
        ],
        "environment": dict(os.environ),
        "threads": torch.get_num_threads(),
        "dtype": str(torch.get_default_dtype()),
        "gradients": torch.is_grad_enabled(),
        "random numbers": torch.get_rng_state().tolist(),
        "recompiles": torch._dynamo.config.recompile_limit,
    }

before = state()
names = [module.name for module in pkgutil.walk_packages(jam.__path__, "jam.")]
for name in names:
    importlib.import_module(name)
PLANT
after = state()
filters = [f"{name} calls {function}" for name, function in asked if name.split(".")[0] in ("jam", "__main__")]
print(json.dumps([len(names), filters, [key for key in before if before[key] != after[key]]]))
"""


def found(plant: str = "") -> tuple[int, list[str], list[str]]:
    """How many modules were imported, who asked for filters of warnings, and what differs afterwards."""
    command = [sys.executable, "-c", PROGRAM.replace("PLANT", plant)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def test_importing_jam_changes_nothing() -> None:
    modules, filters, changed = found()
    assert modules > 150 and not filters and not changed


@pytest.mark.parametrize(
    ("plant", "what"),
    [
        ("transformers.AttentionInterface.register('sdpa', print)", "attention"),
        ("of_transformers.disable_progress_bar()", "progress bars"),
        ("of_diffusers.set_verbosity_error()", "verbosity"),
    ],
)
@pytest.mark.slow
def test_a_change_is_found(plant: str, what: str) -> None:
    assert found(plant)[2] == [what]


@pytest.mark.slow
def test_a_filter_is_found() -> None:
    assert found("warnings.filterwarnings('ignore', message='x')")[1] == ["__main__ calls filterwarnings"]
