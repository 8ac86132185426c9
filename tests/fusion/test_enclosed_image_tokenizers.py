"""Checkpoints of Janus and Emu3 as they lie on the hub: their image tokenizers are taken out of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Emu3ForConditionalGeneration, JanusForConditionalGeneration

import jam.checkpoints.resume
import jam.codec.files
from jam.checkpoints import CheckpointReader, Manifest, sha256_of
from jam.cli import main
from jam.codec import describe_image_tokenizer, load_image_tokenizer
from jam.codec.files import InsideCheckpoint
from jam.fusion import find_image_tokenizer, fuse
from jam.fusion.hub import DESCRIPTION
from support import tiny
from support.fusion_parents import settings
from support.fusion_runs import hash_of, killed
from support.hub_cache import COMMIT, offline, store
from support.open_pairs import CODES, OPEN_PAIRS

# Model type: its pair, its class, and the grid and resolution of a picture.
HOLDERS: dict[str, tuple[str, Any, tuple[int, int], int]] = {
    "janus": ("DeepSeek-LLM, Janus-Pro", JanusForConditionalGeneration, (2, 2), 8),
    "emu3": ("Emu3-Chat, Emu3-Gen", Emu3ForConditionalGeneration, (3, 3), 6),
}
WEIGHTS = "model.safetensors"


@pytest.fixture(params=HOLDERS)
def holder(request: pytest.FixtureRequest) -> str:
    return request.param


def save_pair(holder: str, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    torch.manual_seed(0)
    OPEN_PAIRS[HOLDERS[holder][0]][0](folder, dtype)
    assert not (folder / "image" / "image_tokenizer").exists()


def jam_fuse(folder: Path, *options: object) -> int:
    words = ["fuse", "--text", folder / "text", "--image", folder / "image", "--out", folder / "out", *options]
    return main([str(word) for word in words])


def run(folder: Path, **options: Any) -> None:
    fuse(settings(folder, **options))


def without(weights: Path, left_out: str) -> None:
    """Rewrite a file of weights without the tensors with these words in their names."""
    kept = {name: tensor for name, tensor in load_file(weights).items() if left_out not in name}
    save_file(kept, weights, {"format": "pt"})


def inner_tensors(parent: Path) -> dict[str, Tensor]:
    stored = load_file(parent / WEIGHTS).items()
    return {name.split("vqmodel.")[1]: tensor for name, tensor in stored if "vqmodel." in name}


def assert_same_tensors(folder: Path, expected: dict[str, Tensor]) -> None:
    found = load_file(folder / WEIGHTS)
    assert found.keys() == expected.keys() and any(name.startswith("decoder.") for name in found)
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype and torch.equal(tensor, expected[name]), name


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# What comes out


def test_codes_and_pictures_are_those_of_the_parents_class(holder: str, tmp_path: Path) -> None:
    save_pair(holder, tmp_path)
    assert jam_fuse(tmp_path) == 0
    _, whole, grid, resolution = HOLDERS[holder]
    info = describe_image_tokenizer(tmp_path / "out" / "image_tokenizer")
    assert (info.codebook_size, info.grid, info.resolution) == (CODES, grid, resolution)
    tokenizer = load_image_tokenizer(tmp_path / "out" / "image_tokenizer")
    pictures = [tiny.picture(seed, (20, 16)) for seed in range(6)]
    codes = tokenizer.encode(pictures)
    assert len(codes.unique()) > 3
    own = whole.from_pretrained(tmp_path / "image", dtype=torch.float32).eval().model.vqmodel
    pixels = torch.stack([tokenizer.to_pixels(picture) for picture in pictures])
    with torch.no_grad():
        if holder == "janus":
            assert torch.equal(own.encode(pixels).image_tokens.flatten(), codes.flatten())
            decoded = own.decode(codes.flatten(1))
        else:
            sizes = torch.tensor([[resolution, resolution]] * len(pictures))
            assert torch.equal(torch.stack(list(own.encode(pixels, sizes).image_tokens)), codes)
            decoded = own.decode(codes).squeeze(1)
    shown = [np.asarray(picture) for picture in tokenizer.decode(codes)]
    assert np.array_equal(shown, ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())


def test_tensors_are_copied_as_they_are_stored(holder: str, tmp_path: Path) -> None:
    save_pair(holder, tmp_path, torch.bfloat16)
    assert jam_fuse(tmp_path, "--dtype", "float32") == 0
    expected = inner_tensors(tmp_path / "image")
    assert torch.bfloat16 in {tensor.dtype for tensor in expected.values()}
    assert_same_tensors(tmp_path / "out" / "image_tokenizer", expected)
    config = (tmp_path / "out" / "image_tokenizer" / "config.json").read_text()
    assert str(tmp_path) not in config and json.loads(config)["model_type"] == f"{holder}_vqgan"


def test_the_manifest_hashes_the_files_that_it_came_from(holder: str, tmp_path: Path) -> None:
    save_pair(holder, tmp_path)
    assert jam_fuse(tmp_path) == 0
    image = Manifest.load(tmp_path / "out").ancestors[1]
    assert image["role"] == "image" and image["files"] == {WEIGHTS: sha256_of(tmp_path / "image" / WEIGHTS)}


def test_limits_of_pictures_go_along(tmp_path: Path) -> None:
    """Also where they are a part of the whole processor's file."""
    save_pair("emu3", tmp_path)
    limits = json.loads((tmp_path / "image" / "preprocessor_config.json").read_text())
    inside = describe_image_tokenizer(tmp_path / "image")
    assert inside.area == (36, 144)
    (tmp_path / "image" / "preprocessor_config.json").unlink()
    (tmp_path / "image" / "processor_config.json").write_text(json.dumps({"image_processor": limits}))
    assert jam_fuse(tmp_path) == 0
    taken_out = describe_image_tokenizer(tmp_path / "out" / "image_tokenizer")
    assert taken_out == inside and taken_out.area == inside.area


# Where it is found


def test_a_plan_of_configs_alone(holder: str, tmp_path: Path, capsys: Any) -> None:
    save_pair(holder, tmp_path / "made")
    for role in ("text", "image"):
        (tmp_path / role).mkdir()
        shutil.copy(tmp_path / "made" / role / "config.json", tmp_path / role)
    assert jam_fuse(tmp_path, "--plan", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["vocabulary"]["image_size"] == CODES
    assert not any("image codes" in note and "assumed" in note for note in plan["notes"])
    grid = (512 // 2,) * 2 if holder == "emu3" else HOLDERS[holder][2]  # Emu3's processor says another area
    assert describe_image_tokenizer(tmp_path / "image").grid == grid
    assert left_in(tmp_path) == ["image", "made", "text"]


def test_by_hub_ids(holder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch, tmp_path / "cache")
    save_pair(holder, tmp_path)
    expected = inner_tensors(tmp_path / "image")
    for role in ("text", "image"):
        for path in (tmp_path / role / "tokenizer").iterdir():
            path.rename(tmp_path / role / path.name)
        store(tmp_path / role, tmp_path / "cache" / f"models--somebody--{role}")
    words = ["fuse", "--text", "somebody/text", "--image", f"somebody/image@{COMMIT}", "--out", str(tmp_path / "out")]
    assert main([*words, "--plan"]) == 0 and main(words) == 0
    assert_same_tensors(tmp_path / "out" / "image_tokenizer", expected)
    assert describe_image_tokenizer(tmp_path / "out" / "image_tokenizer").grid == HOLDERS[holder][2]
    assert {"preprocessor_config.json", "processor_config.json"} <= set(DESCRIPTION)  # a plan has them fetched too


def test_another_checkpoint_may_be_named(holder: str, tmp_path: Path) -> None:
    """`--image-tokenizer` takes it, and `jam convert-tokenizer` makes the same folder of it."""
    save_pair(holder, tmp_path)
    shutil.copytree(tmp_path / "image", tmp_path / "whole")
    without(tmp_path / "image" / WEIGHTS, "vqmodel")
    assert jam_fuse(tmp_path, "--image-tokenizer", tmp_path / "whole") == 0
    assert main(["convert-tokenizer", str(tmp_path / "whole"), "--out", str(tmp_path / "converted")]) == 0
    assert hash_of(tmp_path / "converted") == hash_of(tmp_path / "out" / "image_tokenizer")


def test_a_folder_in_the_parent_goes_first(tmp_path: Path) -> None:
    save_pair("janus", tmp_path)
    assert find_image_tokenizer(settings(tmp_path)) == tmp_path / "image"
    tiny.save_vq(tmp_path / "image" / "image_tokenizer")
    assert find_image_tokenizer(settings(tmp_path)) == tmp_path / "image" / "image_tokenizer"


def test_both_names_of_its_tensors(tmp_path: Path) -> None:
    """Emu3 is saved under its older names; Janus under those of the classes."""
    save_pair("emu3", tmp_path)
    expected, stored = inner_tensors(tmp_path / "image"), load_file(tmp_path / "image" / WEIGHTS)
    assert any(name.startswith("vqmodel.") for name in stored)
    newer = {f"model.{name}" if name.startswith("vqmodel.") else name: tensor for name, tensor in stored.items()}
    save_file(newer, tmp_path / "image" / WEIGHTS, {"format": "pt"})
    assert jam_fuse(tmp_path) == 0
    assert_same_tensors(tmp_path / "out" / "image_tokenizer", expected)


# How it is written


def test_blocks_of_rows_are_read(holder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_pair(holder, tmp_path)
    block, read_rows = 5000, CheckpointReader.read_rows

    def few_rows(reader: CheckpointReader, name: str, start: int, stop: int, buffer: Any = None) -> Tensor:
        rows = read_rows(reader, name, start, stop, buffer)
        assert rows.nbytes <= block or len(rows) == 1, (name, rows.shape)
        return rows

    monkeypatch.setattr(jam.codec.files, "BLOCK", block)
    monkeypatch.setattr(CheckpointReader, "read_rows", few_rows)
    inside = InsideCheckpoint(tmp_path / "image")
    assert max(info.bytes for info in inside.infos.values()) > 5 * block
    inside.save(tmp_path / "out")
    monkeypatch.undo()
    expected = inner_tensors(tmp_path / "image")
    assert inside.bytes == sum(tensor.nbytes for tensor in expected.values())
    assert_same_tensors(tmp_path / "out", expected)


@pytest.mark.parametrize("at", ["tokenizer 7", pytest.param("manifest", marks=pytest.mark.slow)])
def test_killed_and_gone_on_with(at: str, tmp_path: Path) -> None:
    save_pair("janus", tmp_path)
    options = {"every": 1, "shard_mb": 0.05}
    run(tmp_path, **options)
    (tmp_path / "out").rename(tmp_path / "once")
    killed(tmp_path, at=at, fuse=run, **options)
    assert not (tmp_path / "out" / "config.json").exists()
    run(tmp_path, **options)
    assert hash_of(tmp_path / "out") == hash_of(tmp_path / "once")
    assert left_in(tmp_path) == ["image", "once", "out", "text"]


def test_a_disk_with_room_for_the_model_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_pair("janus", tmp_path)
    assert jam_fuse(tmp_path, "--plan", "--json") == 0
    room = json.loads(capsys.readouterr().out)["bytes"] + InsideCheckpoint(tmp_path / "image").bytes // 2
    monkeypatch.setattr(jam.checkpoints.resume, "free_bytes", lambda path: room)
    assert jam_fuse(tmp_path) == 1
    assert "the disk is full: cannot write" in capsys.readouterr().err
    assert left_in(tmp_path) == ["image", "text"]


# Mistakes


@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        ("vqmodel", "holds no image tokenizer: none of its tensors begins with model.vqmodel., so it was left out"),
        ("vqmodel.decoder.conv_in.weight", "the image tokenizer inside {image} does not fit its config.json"),
    ],
)
def test_weights_that_were_left_out(
    holder: str, left_out: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_pair(holder, tmp_path)
    without(tmp_path / "image" / WEIGHTS, left_out)
    assert jam_fuse(tmp_path) == 1
    assert message.format(image=tmp_path / "image") in capsys.readouterr().err
    assert main(["convert-tokenizer", str(tmp_path / "image"), "--out", str(tmp_path / "converted")]) == 1
    assert message.format(image=tmp_path / "image") in capsys.readouterr().err
    assert left_in(tmp_path) == ["image", "text"]


def test_a_whole_model_is_not_opened_as_an_image_tokenizer(holder: str, tmp_path: Path) -> None:
    """The library's class would open it, with random weights."""
    save_pair(holder, tmp_path)
    with pytest.raises(ValueError, match=r"image is a whole model; make its image tokenizer with `jam convert-tokeni"):
        load_image_tokenizer(tmp_path / "image")


def test_a_description_of_a_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_pair("janus", tmp_path)
    words = ["convert-tokenizer", tmp_path / "image", "--yaml", "vqgan.yaml", "--out", tmp_path / "converted"]
    assert main([str(word) for word in words]) == 1
    assert "is a folder, which its config.json describes; leave vqgan.yaml out" in capsys.readouterr().err
