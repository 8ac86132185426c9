"""Parents that are damaged or mixed, and a disk that is too small: one clear line, and nothing left behind."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import jam.checkpoints.resume
import jam.fusion.execute
from jam.checkpoints import CheckpointReader
from support.fusion_parents import CODES, TEXT_SIZE, llama_config, run, save_parent


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A pair whose image parent has three shards or more."""
    save_parent(tmp_path / "text", llama_config(TEXT_SIZE), 1)
    model = save_parent(tmp_path / "image", llama_config(TEXT_SIZE + CODES), 2)
    (tmp_path / "image" / "model.safetensors").unlink()
    model.save_pretrained(tmp_path / "image", max_shard_size="2KB")
    assert len(shards(tmp_path)) > 2
    return tmp_path


def shards(pair: Path) -> list[Path]:
    return sorted((pair / "image").glob("*.safetensors"))


def refused(pair: Path, message: str, **options: Any) -> None:
    with pytest.raises(ValueError, match=message):
        run(pair, **options)
    assert sorted(path.name for path in pair.iterdir()) == ["image", "text"]


def with_header(path: Path, change: Any) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = change(data[8 : 8 + length])
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])


def edit(**changes: Any) -> Any:
    """A change of the first tensor's entry in a header."""

    def change(header: bytes) -> bytes:
        entries = json.loads(header)
        name = next(name for name in entries if name != "__metadata__")
        entries[name] |= changes
        return json.dumps(entries).encode()

    return change


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda header: header[: len(header) // 2], "its header cannot be read"),
        (lambda header: b"\xff" + header[1:], "its header cannot be read"),
        (lambda header: b"[]", "its header cannot be read"),
        (edit(dtype=None), "of the unknown data type None"),
        (edit(dtype="floats"), "of the unknown data type floats"),
        (edit(shape=[3, 3, 3]), r"its header gives .* of 108 bytes"),
        (edit(data_offsets=[-8, -8]), "its header gives"),
        (edit(data_offsets=[8]), r"its header gives .* at bytes \[8\]"),
        (edit(shape=[-2, -1]), r"its header gives .* the shape \[-2, -1\]"),
        (edit(shape=[2.0]), r"its header gives .* the shape \[2.0\]"),
        (edit(shape="32"), "its header gives .* the shape"),
        (edit(shape=None), "its header cannot be read"),
    ],
)
def test_damaged_header(pair: Path, change: Any, problem: str) -> None:
    with_header(shards(pair)[1], change)
    refused(pair, rf"{shards(pair)[1].name} is damaged: .*{problem}.*; fetch it again")


def test_truncated_shard(pair: Path) -> None:
    path = shards(pair)[1]
    path.write_bytes(path.read_bytes()[:-1])
    refused(pair, rf"{path.name} is damaged: its header describes \d+ bytes, the file has \d+; fetch it again")


def test_older_file_that_is_damaged(tmp_path: Path) -> None:
    save_parent(tmp_path / "text", llama_config(TEXT_SIZE), 1)
    model = save_parent(tmp_path / "image", llama_config(TEXT_SIZE + CODES), 2)
    (tmp_path / "image" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "image" / "pytorch_model.bin")
    data = (tmp_path / "image" / "pytorch_model.bin").read_bytes()
    (tmp_path / "image" / "pytorch_model.bin").write_bytes(data[: len(data) // 2])
    refused(tmp_path, r"pytorch_model.bin is damaged: torch cannot load it \(.*\); fetch it again")


def test_shard_that_is_missing(pair: Path) -> None:
    shards(pair)[1].unlink()
    refused(pair, r"model-00002-of-\d+.safetensors is missing; the index names \d+ files")


def test_shard_that_the_index_leaves_out(pair: Path) -> None:
    index = pair / "image" / "model.safetensors.index.json"
    values = json.loads(index.read_text())
    name = shards(pair)[1].name
    values["weight_map"] = {tensor: file for tensor, file in values["weight_map"].items() if file != name}
    index.write_text(json.dumps(values))
    refused(pair, rf"index.json does not name {name}, a file beside it: the index is of other files")


def test_files_of_other_names_beside_the_index_are_left_alone(pair: Path) -> None:
    save_file({"x": torch.zeros(1)}, pair / "image" / "consolidated.safetensors")
    save_file({"x": torch.zeros(1)}, pair / "image" / "other-00001-of-00002.safetensors")
    run(pair)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is not valid JSON: .*; fetch it again"),
        ("{}", "is damaged: it is no index of shards"),
        ("[]", "holds a list where an object is expected; fetch it again"),
    ],
)
def test_index_that_is_none(pair: Path, text: str, problem: str) -> None:
    (pair / "image" / "model.safetensors.index.json").write_text(text)
    refused(pair, f"index.json {problem}")


def test_shard_that_is_not_what_the_hub_has(pair: Path) -> None:
    """The record that `hf download --local-dir` leaves says another hash."""
    records = pair / "image" / ".cache" / "huggingface" / "download"
    records.mkdir(parents=True)
    path = shards(pair)[1]
    record = records / f"{path.name}.metadata"
    record.write_text(f"{'0' * 40}\n{'1' * 64}\n{path.stat().st_mtime}\n")
    damaged = rf"{path.name} is damaged: its SHA-256 is [0-9a-f]+, the hub's is {'1' * 64}; fetch it again"
    with pytest.raises(ValueError, match=damaged):
        run(pair)
    assert not (pair / "out").exists()  # what was finished before the hash was known waits beside it
    record.write_text(f"{'0' * 40}\n{'1' * 64}\n{path.stat().st_mtime - 60}\n")
    run(pair)  # a file that its owner changed since


def mix_dtypes(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = {name: tensor.bfloat16() if "norm" not in name else tensor for name, tensor in load_file(path).items()}
    save_file(tensors | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(2)}, path)


def test_mixed_data_types_ask_for_the_one_of_the_result(tmp_path: Path) -> None:
    for role, codes, seed in (("text", 0, 1), ("image", CODES, 2)):
        save_parent(tmp_path / role, llama_config(TEXT_SIZE + codes), seed)
    mix_dtypes(tmp_path / "text")
    refused(tmp_path, r"text parent .* mixes data types \((?=.*16 of bfloat16)(?=.*5 of float32).*; .*with --dtype")
    plan = run(tmp_path, plan=True, out=None)
    assert {tensor.dtype for tensor in plan.tensors} == {torch.float32}
    assert any("the text parent mixes data types" in note for note in plan.notes)
    run(tmp_path, dtype="bfloat16")
    assert {info.dtype for info in CheckpointReader(tmp_path / "out").infos.values()} == {torch.bfloat16}


def test_too_little_disk(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first byte, with room for the image tokenizer counted in."""
    (pair / "image" / "image_tokenizer").mkdir()
    halves = {f"{half}.weight": torch.zeros(1250) for half in ("encoder", "decoder")}
    save_file(halves, pair / "image" / "image_tokenizer" / "model.safetensors")
    plan = run(pair, plan=True, out=None)
    monkeypatch.setattr(jam.checkpoints.resume, "free_bytes", lambda path: plan.bytes + 9_999)
    monkeypatch.setattr(jam.fusion.execute, "write_checkpoint", lambda *_, **__: pytest.fail("bytes were written"))
    refused(pair, r"the disk is full: cannot write .*out: .* needed, .* free; .*\(nothing was left behind\)")


@pytest.mark.parametrize("weight", [-0.1, 1.01, float("nan")])
def test_weight_that_is_no_share(pair: Path, weight: float) -> None:
    message = "weight is nan; it must be a finite number"
    if weight == weight:
        message = re.escape(f"--weight {weight:g}: the text parent's share is between 0 and 1")
    refused(pair, message, method="uniform", weight=weight)
