"""A new way of fusing is one class; parents whose configs differ in any field that counts are not combined."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import jam
from jam.cli import main
from jam.fusion import FuseConfig, FusionPlan, Pair
from jam.fusion.method import FusionMethod
from jam.fusion.methods import METHODS
from jam.fusion.plan import Compute, Later
from jam.fusion.single import single_index, single_plan, single_settings
from jam.fusion.skeleton import Skeleton
from support.fusion_parents import llama_config, opt_config, run, save_pair


class TextWins(FusionMethod):
    """The text parent's weights, with the image parent's rows where the text parent has none."""

    name = "text-wins"
    options = ("weight",)

    def plan(self, pair: Pair, config: FuseConfig) -> FusionPlan:
        pair.require_one_shape(self.name)
        text_V, image_V = single_index(pair)
        rows = Later("rows.merged_table", text_V=text_V, image_V=image_V, weight=1.0)

        def rule(name: str, target: Skeleton) -> tuple[str, Compute]:
            table = name in target.vocabulary_tensors
            return "the text parent's", rows if table else Later("averages.blockwise", weight=1.0)

        return single_plan(pair, self.name, single_settings(pair), rule)

    def not_promised(self, options: Mapping[str, Any]) -> str:
        return "the image parent's layers are gone"


def test_a_method_is_one_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setitem(METHODS, TextWins.name, TextWins())
    save_pair(tmp_path, llama_config)
    run(tmp_path, method=TextWins.name, weight=0.9)
    name = "model.layers.1.mlp.up_proj.weight"
    theirs, ours = (load_file(tmp_path / folder / "model.safetensors")[name] for folder in ("text", "out"))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["method"], manifest["options"]) == ("text-wins", {"weight": 0.9})
    assert "text-wins (weight 0.9)" in (tmp_path / "out" / "README.md").read_text()
    assert main(["verify", str(tmp_path / "out"), "--device", "cpu", "--answer-ids", "0"]) == 0
    assert "not promised: the image parent's layers are gone" in capsys.readouterr().out
    assert jam.load(tmp_path / "out", device="cpu").generate("A", max_new_tokens=4).messages


def test_an_unknown_method(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["fuse", "--text", "a", "--image", "b", "--out", str(tmp_path / "out"), "--method", "sum"]) == 1
    assert "--method is 'sum'; it must be one of cross, uniform, width" in capsys.readouterr().err


def test_options_of_another_method(tmp_path: Path) -> None:
    for method, option, value in (("uniform", "init", "average"), ("cross", "weight", 0.3), ("width", "every", 1)):
        with pytest.raises(
            ValueError, match=rf"--{option} .*: only \w+ fusion has it; leave it out of --method {method}"
        ):
            run(tmp_path, method=method, **{option: value})


@pytest.mark.parametrize("method", ["uniform", "width"])
@pytest.mark.parametrize(
    ("field", "value"), [("rms_norm_eps", 0.5), ("residual_multiplier", 0.22), ("no_rope_layers", [1, 0])]
)
def test_fields_that_nobody_listed_must_agree(tmp_path: Path, method: str, field: str, value: Any) -> None:
    """As in Granite, which multiplies residuals, or SmolLM3: known to the file, and to no table of ours."""
    save_pair(tmp_path, llama_config)
    edit(tmp_path / "image" / "config.json", **{field: value})
    with pytest.raises(ValueError, match=rf"the parents differ in {field}: .*; {method} fusion needs equal ones"):
        run(tmp_path, method=method)


@pytest.mark.parametrize("make", [llama_config, opt_config])
def test_fields_without_a_say_may_differ(tmp_path: Path, make: Any) -> None:
    save_pair(tmp_path, make)
    edit(
        tmp_path / "image" / "config.json",
        attention_dropout=0.5,
        use_cache=False,
        transformers_version="4.1.0",
        sep_token_id=1,
        _name_or_path="elsewhere",
    )
    assert run(tmp_path, method="uniform").parameters > 0


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
