"""What `jam fuse` waits for: parents of known families are planned without torch, and fused without `transformers`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

import jam.models.cross  # noqa: F401  (which registers its classes)
from jam.fusion.parents import Parent
from jam.models.towers.settings import Settings
from support.families import SIZES
from support.fusion_parents import CODES, TEXT_SIZE, llama_config, opened, opt_config, save_pair, save_parent, tokenizer

RUN = """
import json, sys
from jam.cli import main
status = main(sys.argv[1:])
heavy = ("torch", "transformers", "huggingface_hub", "diffusers")
print(json.dumps([status, [name for name in heavy if name in sys.modules]]))
"""
CONFIGS = (MistralConfig, Qwen2Config, Qwen3Config, GemmaConfig, Gemma2Config, Gemma3TextConfig)


def imported(*arguments: Any) -> list[str]:
    """The heavy packages that a command has imported by its end."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", RUN, *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=120)
    status, found = json.loads(ended.stdout.splitlines()[-1])
    assert status == 0, ended.stdout + ended.stderr
    return found


def arguments(folder: Path, method: str) -> list[Any]:
    vq = {"_class_name": "VQModel", "in_channels": 3, "sample_size": 2, "block_out_channels": [8]}
    (folder / "vq").mkdir()
    (folder / "vq" / "config.json").write_text(json.dumps(vq | {"num_vq_embeddings": CODES}))
    halves = {f"{half}.weight": torch.zeros(1) for half in ("encoder", "decoder")}
    save_file(halves, folder / "vq" / "diffusion_pytorch_model.safetensors")
    parents = ["--text", folder / "text", "--image", folder / "image", "--image-tokenizer", folder / "vq"]
    return ["fuse", *parents, "--method", method, "--sentinels", 3]


def save_family(folder: Path, make: Any) -> list[PreTrainedModel]:
    sizes = SIZES | {"num_hidden_layers": 2, "pad_token_id": None, "eos_token_id": 2}
    made = []
    for role, rows in (("text", TEXT_SIZE), ("image", TEXT_SIZE + CODES)):
        torch.manual_seed(rows)
        made.append(AutoModelForCausalLM.from_config(make(**sizes | {"vocab_size": rows})))
        made[-1].save_pretrained(folder / role)
        tokenizer().save_pretrained(folder / role)
    return made


@pytest.mark.parametrize("method", ["cross", "uniform", "width"])
def test_a_plan_needs_neither(tmp_path: Path, method: str) -> None:
    save_pair(tmp_path, llama_config)
    assert imported(*arguments(tmp_path, method), "--plan") == []


@pytest.mark.parametrize(
    "method", ["cross", *(pytest.param(one, marks=pytest.mark.slow) for one in ("uniform", "width"))]
)
def test_a_fusion_needs_torch(tmp_path: Path, method: str) -> None:
    save_pair(tmp_path, opt_config)
    assert "transformers" not in imported(*arguments(tmp_path, method), "--out", tmp_path / "out")
    assert opened(tmp_path / "out").config.architectures is not None


@pytest.mark.parametrize("make", CONFIGS)
def test_every_family_by_its_table(tmp_path: Path, make: Any) -> None:
    save_family(tmp_path, make)
    assert imported(*arguments(tmp_path, "uniform"), "--plan") == []


def test_unlike_families(tmp_path: Path) -> None:
    save_parent(tmp_path / "text", opt_config(TEXT_SIZE), 1)
    save_parent(tmp_path / "image", llama_config(TEXT_SIZE + CODES), 2)
    assert imported(*arguments(tmp_path, "cross"), "--plan") == []


@pytest.mark.slow
def test_what_only_a_class_knows(tmp_path: Path) -> None:
    """A field that changes what others mean: its class is imported, and the result is the same."""
    save_pair(tmp_path, llama_config)
    common = arguments(tmp_path, "uniform")
    imported(*common, "--out", tmp_path / "known")
    for role in ("text", "image"):
        path = tmp_path / role / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"partial_rotary_factor": 1.0}))
        assert not isinstance(Parent.describe(tmp_path / role, role).settings, Settings)
    assert "transformers" in imported(*common, "--out", tmp_path / "asked")
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("known", "asked"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    known, asked = (AutoConfig.from_pretrained(tmp_path / name) for name in ("known", "asked"))
    del asked.rope_parameters["partial_rotary_factor"]
    fields = known.to_dict().keys() - {"_name_or_path"}
    assert {name: known.to_dict()[name] for name in fields} == {name: asked.to_dict()[name] for name in fields}
