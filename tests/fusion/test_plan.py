"""Plans from configs alone, and the user's mistakes."""

from __future__ import annotations

import errno
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import OPTConfig

import jam.checkpoints.shards
from jam.cli import main
from jam.commands.fuse import table
from jam.console import Console
from jam.fusion import FuseConfig, FusionPlan, fuse
from support import faults
from support.fusion_parents import (
    CODES,
    PLAIN,
    TEXT_SIZE,
    llama_config,
    opt_config,
    run,
    save_pair,
    save_parent,
    settings,
    tokenizer,
)


def plan_of(folder: Path, text: Any, image: Any, **options: Any) -> FusionPlan:
    """The plan from two folders that hold a config.json only."""
    for name, config in (("text", text), ("image", image)):
        (folder / name).mkdir(exist_ok=True)
        config.save_pretrained(folder / name)
    return fuse(FuseConfig(str(folder / "text"), str(folder / "image"), plan=True, **options))


def paper_config(vocab_size: int) -> OPTConfig:
    sizes = dict(hidden_size=4096, word_embed_proj_dim=4096, ffn_dim=16384, num_hidden_layers=32)
    positions = dict(num_attention_heads=32, max_position_embeddings=4096)
    return OPTConfig(vocab_size=vocab_size, **sizes, **positions, **PLAIN)


# Paper, table 4; "exact" has its own figure: embeddings and positions of both parents, but no `fuse`.
SIZES = [
    ({"method": "uniform"}, 6.7e9),
    ({"method": "width", "init": "copy"}, 26.3e9),
    ({"method": "width", "init": "average"}, 26.3e9),
    ({"readout": "paper", "every": 0}, 13.2e9),
    ({"readout": "paper", "every": 4}, 16.4e9),
    ({"readout": "paper", "every": 2}, 19.6e9),
    ({"readout": "paper", "every": 1}, 26.1e9),
    ({"readout": "exact", "every": 0}, 13.4e9),
    ({"readout": "exact", "every": 4}, 16.6e9),
    ({"readout": "exact", "every": 2}, 19.8e9),
    ({"readout": "exact", "every": 1}, 26.3e9),
]


@pytest.mark.parametrize("image_vocabulary", [64_512, 8_192])
@pytest.mark.parametrize(("options", "parameters"), SIZES, ids=str)
def test_sizes_of_the_paper(tmp_path: Path, options: Any, parameters: float, image_vocabulary: int) -> None:
    """An image parent of 8,192 rows has image codes only."""
    plan = plan_of(tmp_path, paper_config(56_320), paper_config(image_vocabulary), **options)
    tolerance = 0.02 if (image_vocabulary, options.get("readout")) == (8_192, "exact") else 0.01  # less to embed
    assert abs(plan.parameters / parameters - 1) < tolerance
    assert (plan.vocabulary.text_size, plan.vocabulary.image_size) == (56_320, 8_192)
    assert plan.bytes == 4 * plan.parameters


@pytest.mark.parametrize(("options", "parameters"), SIZES, ids=str)
def test_sizes_when_both_configs_have_the_joint_vocabulary(tmp_path: Path, options: Any, parameters: float) -> None:
    both = paper_config(64_512), paper_config(64_512)
    plan = plan_of(tmp_path, *both, **options)
    assert abs(plan.parameters / parameters - 1) < 0.01
    assert (plan.vocabulary.text_size, plan.vocabulary.image_size) == (64_512, 0)
    assert any("all rows are shared text" in note for note in plan.notes)
    told = plan_of(tmp_path, *both, image_codes=8_192, **options)
    assert (told.vocabulary.text_size, told.vocabulary.image_size) == (56_320, 8_192)
    assert told.parameters == plan.parameters


def test_plan_as_json_and_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_of(tmp_path, opt_config(TEXT_SIZE), opt_config(TEXT_SIZE + CODES))
    arguments = ("--text", tmp_path / "text", "--image", tmp_path / "image", "--plan", "--json")
    assert main(["fuse", *map(str, arguments)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["parameters"] == plan.parameters == sum(math.prod(t["shape"]) for t in printed["tensors"])
    assert printed["bytes"] == 4 * plan.parameters
    keys = ("name", "shape", "dtype", "bytes", "file", "from", "operation")
    assert {tuple(tensor) for tensor in printed["tensors"]} == {keys}
    copied = next(t for t in printed["tensors"] if t["name"] == "text_tower.model.model.decoder.layers.0.fc1.weight")
    assert copied["from"] == ["text:model.decoder.layers.0.fc1.weight"] and copied["shape"] == [12, 8]
    output = io.StringIO()
    Console(file=output, width=200).print(table(plan))
    assert f"{plan.parameters:,} parameters" in output.getvalue()
    assert "text_tower.model.model.decoder.layers.*.fc1.weight" in output.getvalue()
    width = plan_of(tmp_path, opt_config(TEXT_SIZE), opt_config(TEXT_SIZE + CODES), method="width")
    Console(file=output, width=200).print(table(width))
    assert "[[text, text], [image, image]]" in output.getvalue()  # and is not taken for markup
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image", "text"]


# --- mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["uniform", "width"])
@pytest.mark.parametrize(
    ("make", "changes", "shown"),
    [
        (opt_config, {"hidden_size": 16, "word_embed_proj_dim": 16}, "hidden_size: text 8, image 16"),
        (opt_config, {"num_hidden_layers": 3}, "num_hidden_layers: text 2, image 3"),
        (opt_config, {"max_position_embeddings": 20}, "max_position_embeddings: text 16, image 20"),
        (opt_config, {"enable_bias": False}, "enable_bias: text True, image False"),
        (llama_config, {}, "model_type: text opt, image llama"),
    ],
)
def test_parents_of_different_shape(tmp_path: Path, make: Any, changes: Any, shown: str, method: str) -> None:
    save_parent(tmp_path / "text", opt_config(TEXT_SIZE), 1)
    save_parent(tmp_path / "image", make(TEXT_SIZE + CODES, **changes), 2)
    with pytest.raises(ValueError, match=rf"{shown}.*; {method} fusion needs equal ones, cross .* does not"):
        run(tmp_path, method=method)
    assert not (tmp_path / "out").exists()


def test_tokenizers_that_differ(tmp_path: Path) -> None:
    """Where rows of both become one; what cross fusion makes of them is in test_unequal_parents.py."""
    save_pair(tmp_path, opt_config)
    tokenizer("abcdefX").save_pretrained(tmp_path / "image")
    with pytest.raises(ValueError, match=r"tokenizers differ: .* 'X': text None, image 9"):
        run(tmp_path, method="uniform")
    tokenizer(merges=(("b", "c"), ("a", "b"))).save_pretrained(tmp_path / "image")  # same entries, other merges
    with pytest.raises(ValueError, match=r"tokenizers differ: merge 0 is \['a', 'b'\] for text and \['b', 'c'\] for"):
        run(tmp_path, method="width")
    assert not (tmp_path / "out").exists()


def test_checkpoint_with_missing_or_extra_tensors(tmp_path: Path) -> None:
    save_pair(tmp_path, opt_config)
    path = tmp_path / "image" / "model.safetensors"
    tensors = load_file(path)
    tensors["surplus"] = tensors.pop("model.decoder.layers.1.fc2.weight")
    save_file(tensors, path)
    with pytest.raises(
        ValueError, match=r"1 missing \(model.decoder.layers.1.fc2.weight\), 1 not expected \(surplus\)"
    ):
        run(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image", "text"]


def test_output_folder_that_exists(tmp_path: Path) -> None:
    save_pair(tmp_path, opt_config)
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match=r"out exists; choose another --out or remove it"):
        run(tmp_path)
    with pytest.raises(ValueError, match="with --out"):
        run(tmp_path, out=None)


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), ValueError, r"the disk is full: .* needed, .* free"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
    ],
)
def test_disk_full_and_interrupt_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, raised: Any, message: str | None
) -> None:
    save_pair(tmp_path, opt_config)
    faults.at_call(monkeypatch, jam.checkpoints.shards, "_write_at", faults.raising(error))
    with pytest.raises(raised, match=message):
        run(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image", "text"]


def test_what_is_not_known_is_asked_for(tmp_path: Path) -> None:
    save_pair(tmp_path, opt_config)
    with pytest.raises(ValueError, match=r"how many image codes .* give its image tokenizer with --image-tokenizer"):
        fuse(settings(tmp_path))
    with pytest.raises(ValueError, match=r"how many tokens an image has is not known; .*--image-tokenizer"):
        fuse(settings(tmp_path, image_codes=CODES))
    with pytest.raises(ValueError, match=r"the image tokenizer says 6, --image-codes says 4"):
        run(tmp_path, image_codes=4)
    with pytest.raises(ValueError, match=r"--image-tokenizer nowhere: there is no such folder"):
        run(tmp_path, image_tokenizer="nowhere")
    with pytest.raises(
        ValueError, match=r"not clear: of the .* 18 rows 12 are text, and the last 9 begin among these, at row 9"
    ):
        fuse(settings(tmp_path), (9, (3, 3)))


def test_codes_that_are_not_the_last_rows(tmp_path: Path) -> None:
    """A table that is padded behind its codes."""
    save_parent(tmp_path / "text", opt_config(TEXT_SIZE), 1)
    image = save_parent(tmp_path / "image", opt_config(24), 2)
    with pytest.raises(ValueError, match=r"--image-start 19: 6 image codes from there on are not within the 24 rows"):
        run(tmp_path, image_start=19)
    with pytest.raises(ValueError, match=r"--image-start 3 is among the 12 text ids"):
        run(tmp_path, image_start=3)
    run(tmp_path, image_start=TEXT_SIZE, method="uniform")
    name = "model.decoder.embed_tokens.weight"
    got = load_file(tmp_path / "out" / "model.safetensors")[name][TEXT_SIZE : TEXT_SIZE + CODES]
    assert torch.equal(got, image.state_dict()[name][TEXT_SIZE : TEXT_SIZE + CODES])


def test_codes_behind_a_padded_text_table(tmp_path: Path) -> None:
    save_parent(tmp_path / "text", opt_config(16), 1)
    save_parent(tmp_path / "image", opt_config(16 + CODES), 2)
    plan = run(tmp_path, image_start=16)
    assert plan.config.image_rows["image_start"] == 16 and plan.vocabulary.image_start == TEXT_SIZE


def test_padded_tables_of_one_size(tmp_path: Path) -> None:
    """Both parents have the joint vocabulary, padded to 24 rows."""
    for role, seed in (("text", 1), ("image", 2)):
        save_parent(tmp_path / role, opt_config(24), seed)
    plan = run(tmp_path, image_start=TEXT_SIZE)
    assert plan.config.text_rows["image_start"] == plan.config.image_rows["image_start"] == TEXT_SIZE


def test_folders_that_are_no_parents(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the text parent .* has no config.json"):
        run(tmp_path)
    save_pair(tmp_path, opt_config)
    (tmp_path / "text" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="holds no weights"):
        run(tmp_path)
    for path in (tmp_path / "text").glob("*token*"):
        path.unlink()
    with pytest.raises(ValueError, match="has no tokenizer"):
        run(tmp_path)
    (tmp_path / "text" / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ValueError, match=r"no tower for the architecture 'gpt2'"):
        run(tmp_path)
