"""Uniform fusion with any weight, and mergekit's linear merge (where it is installed) to the last bit.

mergekit needs other libraries than this project: install it into an environment of its own, and name its program
`mergekit-yaml` in the variable MERGEKIT.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from jam.checkpoints import Manifest
from support.fusion_parents import CODES, TEXT_SIZE, llama_config, run, save_pair

MERGEKIT = os.environ.get("MERGEKIT") or shutil.which("mergekit-yaml")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


@pytest.mark.parametrize("weight", [0.0, 0.3, 1 / 3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize(("dtype", "out"), [("float32", None), ("bfloat16", None), ("bfloat16", "float16")])
def test_any_weight_with_one_rounding(tmp_path: Path, weight: float, dtype: str, out: Any) -> None:
    save_pair(tmp_path, llama_config, DTYPES[dtype])
    run(tmp_path, method="uniform", weight=weight, dtype=out)
    text, image, fused = (weights(tmp_path / name) for name in ("text", "image", "out"))
    for name, tensor in text.items():
        ours, theirs = (tensor.double(), image[name][: len(tensor)].double())
        expected = weight * ours + (1 - weight) * theirs
        got = fused[name][: len(tensor)]
        assert got.dtype is DTYPES[out or dtype]
        step = torch.finfo(got.dtype).eps * expected.abs() / 2  # half a step, where fp32 is exact enough
        assert ((got.double() - expected).abs() <= 1.001 * step + 1e-6).all()
        if weight in (0, 1):
            assert torch.equal(got, (tensor if weight else image[name][: len(tensor)]).to(got.dtype))
        if len(tensor) != len(image[name]):  # codes are the image parent's, whatever the weight
            assert torch.equal(fused[name][TEXT_SIZE : TEXT_SIZE + CODES], image[name][TEXT_SIZE:].to(got.dtype))
    assert Manifest.load(tmp_path / "out").options == {"weight": weight}


def test_parents_of_two_data_types(tmp_path: Path) -> None:
    save_pair(tmp_path, llama_config)
    (tmp_path / "wide").mkdir()
    for name in ("text", "image"):
        shutil.move(tmp_path / name, tmp_path / "wide" / name)
    save_pair(tmp_path, llama_config, torch.bfloat16)
    shutil.rmtree(tmp_path / "text")
    shutil.copytree(tmp_path / "wide" / "text", tmp_path / "text")
    run(tmp_path, method="uniform")
    text, image, fused = (weights(tmp_path / name) for name in ("text", "image", "out"))
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(fused[name], 0.5 * text[name] + 0.5 * image[name].float())


@pytest.mark.skipif(not MERGEKIT, reason="mergekit is not installed; see the top of this file")
@pytest.mark.parametrize(
    ("weight", "dtype", "out"),
    [
        (0.5, "bfloat16", "bfloat16"),
        (0.3, "bfloat16", "bfloat16"),
        (1 / 3, "float32", "float32"),
        (0.77, "float16", "bfloat16"),
    ],
)
def test_same_as_mergekit(tmp_path: Path, weight: float, dtype: str, out: str) -> None:
    save_pair(tmp_path, llama_config, DTYPES[dtype], hidden_size=64, intermediate_size=256)
    run(tmp_path, method="uniform", weight=weight, dtype=out)
    same_size = tmp_path / "same-size"  # mergekit refuses vocabularies of unequal sizes
    image = LlamaForCausalLM.from_pretrained(tmp_path / "image", dtype="auto")
    image.resize_token_embeddings(TEXT_SIZE)
    image.save_pretrained(same_size)
    models = "".join(
        f"  - model: {folder}\n    parameters: {{weight: {share!r}}}\n"
        for folder, share in ((tmp_path / "text", weight), (same_size, 1 - weight))
    )
    config = tmp_path / "merge.yaml"
    config.write_text(f"merge_method: linear\nmodels:\n{models}dtype: float32\nout_dtype: {out}\n")
    command = [str(MERGEKIT), str(config), str(tmp_path / "theirs")]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    ours, theirs = weights(tmp_path / "out"), weights(tmp_path / "theirs")
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        got = ours[name][: len(tensor)]  # text rows of the tables
        assert tensor.dtype is got.dtype and (got.double() - tensor.double()).abs().max() == 0, name
