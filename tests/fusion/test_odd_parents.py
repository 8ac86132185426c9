"""Parents as people have them: old files, odd types, leftovers of quantisation, code of their own, read-only copies."""

from __future__ import annotations

import ast
import json
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from jam.checkpoints import CheckpointReader
from jam.checkpoints.configs import load_config
from jam.codec import describe_image_tokenizer
from jam.fusion import Parent, fuse
from support import tiny
from support.fusion_parents import CODES, IMAGE_TOKENIZER, llama_config, opened, run, save_pair, settings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    save_pair(tmp_path, llama_config)
    return tmp_path


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def as_bin(folder: Path, entries: Any, **options: Any) -> Path:
    """The folder's weights as a `.bin` file in the place of safetensors."""
    (folder / "model.safetensors").unlink(missing_ok=True)
    torch.save(entries, folder / "pytorch_model.bin", **options)
    return folder / "pytorch_model.bin"


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(folder: Path, message: str, **options: Any) -> None:
    with pytest.raises(ValueError, match=message):
        run(folder, **options)
    assert not (folder / "out").exists()


# --- .bin files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
def test_bin_files_of_any_age_with_entries_that_are_no_tensors(pair: Path, zipped: bool) -> None:
    """Older than torch 1.6 is a pickle that is no archive, and cannot be mapped."""
    expected = weights(pair / "text")
    entries = dict(expected) | {"epoch": 3, "args": {"lr": 0.1}, "note": None, "names": ["a"]}
    as_bin(pair / "text", entries, _use_new_zipfile_serialization=zipped)
    reader = CheckpointReader(pair / "text")
    assert reader.infos.keys() == expected.keys()
    assert all(torch.equal(reader.read(name), tensor) for name, tensor in expected.items())
    name = "model.embed_tokens.weight"
    assert torch.equal(reader.read_rows(name, 2, 5), expected[name][2:5])
    run(pair)
    found = CheckpointReader(pair / "out").read(f"text_tower.model.{name}")
    assert torch.equal(found, expected[name])


class Settings:
    """What some trainers pickle beside weights."""


@pytest.mark.parametrize("zipped", [True, False])
def test_what_would_run_code_is_not_unpickled(pair: Path, zipped: bool) -> None:
    as_bin(pair / "text", weights(pair / "text") | {"args": Settings()}, _use_new_zipfile_serialization=zipped)
    refused(pair, r"pytorch_model.bin holds more than tensors \([\w.]*Settings\), and is not unpickled.*save_file")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"state_dict": {"a": torch.ones(2)}, "step": 1}, "holds no tensors by name; they may be inside state_dict"),
        ([torch.ones(2)], "holds no tensors by name$"),
        ({"a": torch.eye(3).to_sparse()}, "a is a sparse tensor, which is not read here"),
    ],
)
def test_bin_files_of_other_things(pair: Path, entries: Any, message: str) -> None:
    as_bin(pair / "text", entries)
    refused(pair, rf"pytorch_model.bin:? {message}")


def test_a_damaged_bin_file_is_damaged(pair: Path) -> None:
    for zipped in (True, False):
        path = as_bin(pair / "image", weights(pair / "text"), _use_new_zipfile_serialization=zipped)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        refused(pair, "pytorch_model.bin is damaged: torch cannot load it")


# --- data types -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (torch.int64, "I64"),
        (torch.bool, "BOOL"),
        (torch.uint16, "U16"),
        (torch.complex64, "C64"),
        (torch.float8_e4m3fn, "F8_E4M3"),
        (torch.float8_e5m2, "F8_E5M2"),
        (torch.float8_e8m0fnu, "F8_E8M0"),
        (torch.float8_e4m3fnuz, "F8_E4M3FNUZ"),
    ],
)
@pytest.mark.parametrize("role", ["text", "image"])
def test_valid_types_that_are_no_weights_are_named(pair: Path, role: str, dtype: torch.dtype, name: str) -> None:
    tensors, odd = weights(pair / role), "model.layers.1.mlp.up_proj.weight"
    save_file(tensors | {odd: torch.zeros(tensors[odd].shape).to(dtype)}, pair / role / "model.safetensors")
    assert CheckpointReader(pair / role).infos[odd].dtype == dtype
    refused(pair, rf"the {role} parent .* 1 tensors such as {odd} of {name}; .* in float32, float16 or bfloat16")


def test_types_below_a_byte_are_named(pair: Path) -> None:
    for name in ("F4", "F6_E2M3"):
        path = pair / "text" / "model.safetensors"
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        header["model.norm.weight"]["dtype"] = name
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
        refused(pair, rf"model.safetensors: model.norm.weight is of the data type {name}, which is not read here")


def test_buffers_of_any_type_are_left_alone(pair: Path) -> None:
    """What the decoder does not read is no reason to refuse: the tensors that nobody expects are named, as before."""
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"  # older Llamas have it; some as whole numbers
    save_file(weights(pair / "text") | {name: torch.ones(2, dtype=torch.int64)}, pair / "text" / "model.safetensors")
    run(pair)


# --- quantisation -----------------------------------------------------------------------------------------------------

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False}
BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}
PACKED = {"quant_method": "compressed-tensors", "format": "pack-quantized"}


@pytest.mark.parametrize("said", [GPTQ, BNB, FP8])
@pytest.mark.parametrize("method", ["cross", "uniform"])
def test_a_leftover_of_quantisation_is_dropped(tmp_path: Path, said: dict[str, Any], method: str) -> None:
    """The weights are plain: merged or dequantised, and the config was forgotten."""
    save_pair(tmp_path, llama_config)
    for role in ("text", "image"):
        edit_config(tmp_path / role, quantization_config=said)
    run(tmp_path, method=method)
    assert "quantization_config" not in (tmp_path / "out" / "config.json").read_text()
    opened(tmp_path / "out")
    assert not hasattr(Parent.describe(tmp_path / "text", "text").whole, "quantization_config")


LAYER = "model.layers.0.mlp.up_proj."
ROWS = (12, 8)


@pytest.mark.parametrize(
    ("said", "stored", "remedy"),
    [
        (GPTQ, {"qweight": torch.ones(1, 12, dtype=torch.int32), "qzeros": torch.ones(1, 2, dtype=torch.int32),
                "scales": torch.ones(1, 12), "g_idx": torch.ones(8, dtype=torch.int32)}, "gptq.*that it was made from"),
        (AWQ, {"qweight": torch.ones(8, 2, dtype=torch.int32), "scales": torch.ones(1, 12)}, "awq.*that it was made"),
        (BNB, {"weight": torch.ones(48, 1, dtype=torch.uint8), "weight.absmax": torch.ones(2),
               "weight.quant_map": torch.ones(16)}, r"bitsandbytes.*model.dequantize\(\)"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True},
         {"weight": torch.ones(ROWS, dtype=torch.int8), "SCB": torch.ones(12)}, r"bitsandbytes.*I8.*dequantize\(\)"),
        (FP8, {"weight": torch.ones(ROWS).to(torch.float8_e4m3fn), "weight_scale_inv": torch.ones(1, 1)},
         r"fp8.*up_proj.weight of F8_E4M3.*FineGrainedFP8Config\(dequantize=True\)"),
        (None, {"weight": torch.ones(ROWS).to(torch.float8_e4m3fn), "weight_scale_inv": torch.ones(1, 1)},
         "fp8.*F8_E4M3"),
        (PACKED, {"weight_packed": torch.ones(12, 1, dtype=torch.int32), "weight_scale": torch.ones(12, 1)},
         "compressed-tensors.*run_compressed=False"),
    ],
    ids=["gptq", "awq", "bnb4", "bnb8", "fp8", "fp8-unsaid", "compressed"],
)  # fmt: skip
def test_quantised_parents_are_refused_with_what_to_do(
    pair: Path, said: dict[str, Any] | None, stored: dict[str, torch.Tensor], remedy: str
) -> None:
    tensors = weights(pair / "image")
    del tensors[LAYER + "weight"]
    stored = {LAYER + name: tensor.contiguous() for name, tensor in stored.items()}
    save_file(tensors | stored, pair / "image" / "model.safetensors")
    if said:
        edit_config(pair / "image", quantization_config=said)
    refused(pair, f"the image parent .* are quantised.*{remedy}")
    refused(pair, f"the image parent .* are quantised.*{remedy}", plan=True)


def test_a_plan_without_weights_cannot_tell(pair: Path) -> None:
    edit_config(pair / "text", quantization_config=AWQ)
    (pair / "text" / "model.safetensors").unlink()
    refused(pair, r"config.json of the text parent .* says that its weights are quantised \(awq\).*not here", plan=True)


# --- code of their own ------------------------------------------------------------------------------------------------


def with_code(folder: Path, flag: Path, **config: Any) -> None:
    """A folder whose config names a class beside it, as repositories with code of their own do."""
    (folder / "own.py").write_text(f"open({str(flag)!r}, 'w')\nclass OwnConfig: pass\n")
    edit_config(folder, auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}, **config)


@pytest.mark.parametrize(
    ("name", "kind", "twin"),
    [
        ("Emu3-Gen", "Emu3", "are BAAI/Emu3-Gen-hf"),
        ("models--BAAI--Emu3-Chat/snapshots/0123", "Emu3", "are BAAI/Emu3-Chat-hf"),
        ("mine", "Emu3", "are BAAI/Emu3-Gen-hf and BAAI/Emu3-Chat-hf"),
        ("models--somebody--other/snapshots/0123", "own_model", "publish them for it as NAME-hf"),
    ],
)
def test_code_of_a_parent_is_neither_run_nor_asked_about(
    pair: Path, name: str, kind: str, twin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asks"))
    monkeypatch.setattr("transformers.dynamic_module_utils.TIME_OUT_REMOTE_CODE", 1)
    folder = pair / "hub" / name
    shutil.copytree(pair / "image", folder)
    with_code(folder, pair / "ran", model_type=kind)
    refused(pair, f"the image parent .* needs Python code of its own .* never run here; .*{twin}", image=str(folder))
    assert not (pair / "ran").exists()


def test_types_without_a_class_name_the_repository_that_is_meant(pair: Path) -> None:
    edit_config(pair / "image", model_type="multi_modality")
    refused(pair, "of the type 'multi_modality', .*deepseek-community/Janus-Pro-7B")
    edit_config(pair / "image", model_type="nobody_knows")
    refused(pair, "the image parent .*config.json cannot be read: .*nobody_knows")
    anole = pair / "Anole-7b-v0.1"
    anole.mkdir()
    refused(pair, "has no config.json; .*leloy/Anole-7b-v0.1-hf", image=str(anole))


def test_a_known_type_with_code_beside_it_is_read_without_it(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many repositories still have the code that transformers has taken over."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asks"))
    with_code(pair / "text", pair / "ran")
    tokenizer = pair / "text" / "tokenizer_config.json"
    own = {"auto_map": {"AutoTokenizer": ["own.OwnTokenizer", None]}}
    tokenizer.write_text(json.dumps(json.loads(tokenizer.read_text()) | own))
    run(pair)
    assert not (pair / "ran").exists() and load_config(pair / "text").model_type == "llama"


def calls_that_could_run_code(source: str) -> list[int]:
    """Lines of calls of Auto classes, and of pipelines, that do not say ``trust_remote_code=False``."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        told = {word.arg: word.value for word in node.keywords}
        says = told.get("trust_remote_code")
        refuses = isinstance(says, ast.Constant) and says.value is False
        called = ast.unparse(node.func)
        names = called.split(".")
        auto = len(names) > 1 and names[-2].startswith("Auto") and names[-1] in ("from_pretrained", "from_config")
        if (says is not None or auto or names[-1] == "pipeline") and not refuses:
            found.append(node.lineno)
    return found


def test_no_call_of_ours_runs_code_of_a_checkpoint() -> None:
    paths = [path for place in ("src", "benchmarks", "examples") for path in sorted((ROOT / place).rglob("*.py"))]
    assert len(paths) > 150
    assert {str(path): lines for path in paths if (lines := calls_that_could_run_code(path.read_text()))} == {}
    for planted in (
        "AutoModel.from_pretrained(x)",
        "transformers.AutoConfig.from_pretrained(x, trust_remote_code=True)",
        "LlamaForCausalLM.from_pretrained(x, trust_remote_code=None)",
        "pipeline('text-generation', x)",
        "AutoModelForCausalLM.from_config(config)",
    ):
        assert calls_that_could_run_code(planted) == [1]


# --- image tokenizers and plans ---------------------------------------------------------------------------------------


def save_image_tokenizer(folder: Path, without: str | None = None) -> None:
    tiny.save_vq(folder)
    path = folder / "diffusion_pytorch_model.safetensors"
    kept = {name: tensor for name, tensor in load_file(path).items() if not (without and name.startswith(without))}
    save_file(kept, path)


@pytest.mark.parametrize("half", ["decoder", "encoder"])
def test_half_an_image_tokenizer_is_refused(pair: Path, half: str) -> None:
    """Else the missing half would be random numbers, without a word."""
    save_image_tokenizer(pair / "image" / "image_tokenizer", without=half)
    refused(pair, f"the image tokenizer .* has no {half} among its weights: no picture could be .*take a whole one$")
    refused(pair, f"has no {half}", encode_only=True)


def test_an_image_tokenizer_that_only_encodes_is_taken_when_that_is_said(pair: Path) -> None:
    """As out of a Chameleon of `transformers`, which leaves the decoder out."""
    folder = pair / "image" / "image_tokenizer"
    save_image_tokenizer(folder, without="decoder")
    edit_config(folder, has_decoder=False)
    refused(pair, "no picture could be shown; take a whole one, or go without, with --encode-only")
    said: list[str] = []
    fuse(settings(pair, encode_only=True), IMAGE_TOKENIZER, say=said.append)
    assert any(line.endswith("nobody can see the pictures that this model writes") for line in said)
    assert (pair / "out" / "image_tokenizer" / "config.json").is_file()


def test_an_image_tokenizer_of_a_class_that_only_encodes(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "chameleon_vqgan"}))
    with pytest.raises(ValueError, match=r"only encodes, so no picture could be shown; .*jam convert-tokenizer"):
        describe_image_tokenizer(tmp_path)


@pytest.mark.parametrize("role", ["text", "image"])
def test_a_plan_says_which_tokenizer_is_missing(pair: Path, role: str) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (pair / role / name).unlink()
    plan = fuse(settings(pair, plan=True, out=None, image_codes=CODES))
    missing = [note for note in plan.notes if note.startswith(f"the {role} parent has no tokenizer: there is no")]
    assert len(missing) == 1 and str(pair / role) in missing[0]
    other = "image" if role == "text" else "text"
    assert not any(note.startswith(f"the {other} parent has no tokenizer") for note in plan.notes)
    assert any("there is no image tokenizer" in note and "--image-tokenizer" in note for note in plan.notes)
    known = fuse(settings(pair, plan=True, out=None), IMAGE_TOKENIZER)
    assert not any("there is no image tokenizer" in note for note in known.notes)


# --- what is written --------------------------------------------------------------------------------------------------


def test_copies_may_be_written_to(pair: Path) -> None:
    """Parents in caches and on shared disks may be read only, and their files are links."""
    folder, blobs = pair / "image" / "image_tokenizer", pair / "blobs"
    save_image_tokenizer(folder)
    (folder / "more").mkdir()
    (folder / "more" / "note.txt").write_text("a")
    blobs.mkdir()
    config = folder / "config.json"
    shutil.move(config, blobs / "0123")
    config.symlink_to(blobs / "0123")
    paths = [path for role in ("text", "image") for path in [pair / role, *(pair / role).rglob("*")]] + [blobs / "0123"]
    modes = {path: path.stat().st_mode for path in paths}
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        run(pair)
    finally:
        for path, mode in modes.items():
            path.chmod(stat.S_IMODE(mode))
    written = [pair / "out", *(pair / "out").rglob("*")]
    assert (pair / "out" / "image_tokenizer" / "more" / "note.txt").read_text() == "a"
    assert all(path.stat().st_mode & stat.S_IWUSR and not path.is_symlink() for path in written)


def test_float16_that_is_too_small_is_told(pair: Path) -> None:
    tensors, name = weights(pair / "text"), "model.layers.1.mlp.down_proj.weight"
    tensors[name][3, 5] = -70_000.0
    save_file(tensors, pair / "text" / "model.safetensors")
    message = rf"text_tower.model.{name} has 70000, and float16 ends at 65504: .*--dtype bfloat16 or float32"
    refused(pair, message, dtype="float16")
    run(pair, dtype="bfloat16")


def test_float16_is_taken_where_it_fits_and_keeps_what_was_infinite(pair: Path) -> None:
    """The greatest number, and what rounds to it; minus infinity of a parent's own stays."""
    tensors, name = weights(pair / "text"), "model.layers.1.mlp.down_proj.weight"
    tensors[name][0, :3] = torch.tensor([65_504.0, -65_519.0, float("-inf")])
    save_file(tensors, pair / "text" / "model.safetensors")
    run(pair, dtype="float16")
    found = CheckpointReader(pair / "out").read(f"text_tower.model.{name}")
    assert found[0, :3].tolist() == [65504.0, -65504.0, float("-inf")]
