"""Uniform and cross fusion, and the fused folder."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

import jam
from jam.checkpoints import CheckpointReader, Manifest
from jam.fusion import FusionPlan, fuse
from jam.grammar import State
from jam.models.cross import CrossForCausalLM
from jam.vocabulary import ParentRows, Vocabulary
from support.fusion_parents import (
    CODES,
    GRID,
    SENTINELS,
    TEXT_SIZE,
    llama_config,
    opened,
    opt_config,
    run,
    save_pair,
    save_parent,
    settings,
)

IMAGE_IDS = slice(TEXT_SIZE, TEXT_SIZE + CODES)

# --- uniform -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [opt_config, llama_config])
def test_uniform_is_the_average(tmp_path: Path, make: Any) -> None:
    text, image = save_pair(tmp_path, make)
    plan = run(tmp_path, method="uniform")
    fused = opened(tmp_path / "out")
    assert type(fused) is type(text)
    assert fused.num_parameters() == plan.parameters
    theirs = image.state_dict()
    for name, ours in text.state_dict().items():
        got = fused.state_dict()[name]
        if got.shape == ours.shape:
            assert torch.equal(got, 0.5 * ours + 0.5 * theirs[name])
            continue
        assert torch.equal(got[:TEXT_SIZE], 0.5 * ours + 0.5 * theirs[name][:TEXT_SIZE])
        codes, controls = got[TEXT_SIZE:].split([CODES, 2 + SENTINELS])
        assert torch.equal(codes, theirs[name][TEXT_SIZE:])  # the image parent alone has these
        mean = got[: TEXT_SIZE + CODES].double().mean(0).float()
        assert torch.equal(controls, mean.expand_as(controls))  # nobody has these
    assert Manifest.load(tmp_path / "out").rows == asdict(ParentRows(TEXT_SIZE, TEXT_SIZE, TEXT_SIZE + CODES, 5))


# --- cross -------------------------------------------------------------------------------------------------------


def expected_shapes(plan: FusionPlan) -> dict[str, tuple[int, ...]]:
    """Names and shapes in the real class, tied tensors once."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in CrossForCausalLM(plan.config).named_parameters()}


@pytest.mark.parametrize("every", [0, 1, 2])
@pytest.mark.parametrize("readout", ["exact", "paper"])
@pytest.mark.parametrize("make", [opt_config, llama_config])
def test_cross_opens_and_plans_what_it_writes(tmp_path: Path, make: Any, readout: str, every: int) -> None:
    save_pair(tmp_path, make)
    plan = run(tmp_path, every=every, readout=readout)
    assert {tensor.name: tensor.shape for tensor in plan.tensors} == expected_shapes(plan)
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in written.items()} == expected_shapes(plan)
    fused = opened(tmp_path / "out")
    assert isinstance(fused, CrossForCausalLM)
    assert fused.num_parameters() == plan.parameters
    assert len(fused.to_text) == len(fused.to_image) == {0: 0, 1: 2, 2: 1}[every]
    for name, tensor in fused.named_parameters():
        assert torch.equal(tensor, written[name]), name
    assert str(tmp_path) not in (tmp_path / "out" / "config.json").read_text()


@pytest.mark.parametrize("make", [opt_config, llama_config])
def test_exact_keeps_both_parents_and_starts_new_rows_at_the_mean(tmp_path: Path, make: Any) -> None:
    parents = save_pair(tmp_path, make)
    run(tmp_path, every=1)
    written = load_file(tmp_path / "out" / "model.safetensors")
    for role, parent in zip(("text", "image"), parents, strict=True):
        for name, tensor in parent.named_parameters():
            assert torch.equal(written[f"{role}_tower.model.{name}"], tensor)
        for side, table in (("input", parent.get_input_embeddings()), ("output", parent.get_output_embeddings())):
            absent = written[f"{role}_tower.absent_{side}"]
            assert torch.equal(absent, table.weight.detach().double().mean(0).float().expand_as(absent))
            assert len(absent) == 2 + SENTINELS + (side == "input")
    outputs = [name for name in written if name.startswith("to_") and name.endswith(("o_proj.weight", "fc2.weight"))]
    others = [name for name in written if name.startswith("to_") and name not in outputs]
    assert len(outputs) == 8 and not any(written[name].any() for name in outputs)
    assert all(written[name].std() > 0.01 for name in others)


@pytest.mark.parametrize("make", [opt_config, llama_config])
def test_exact_loses_nothing(tmp_path: Path, make: Any) -> None:
    """Step 0, fp32: on a parent's own rows, logits equal the parent's to the last bit."""
    text, image = save_pair(tmp_path, make)
    run(tmp_path, every=1)
    fused = opened(tmp_path / "out")
    ids = torch.tensor([[2, 5, 3, 7, 11]])
    with torch.no_grad():
        hidden = fused.hidden(ids)
        for parent, state, own in ((text, State.TEXT, slice(0, TEXT_SIZE)), (image, State.IMAGE, IMAGE_IDS)):
            got = fused.logits(hidden, torch.full(ids.shape, state))[..., own]
            assert (got - parent(ids).logits[..., own]).abs().max() == 0


def test_paper_takes_rows_from_the_parent_they_belong_to(tmp_path: Path) -> None:
    text, image = save_pair(tmp_path, opt_config)
    run(tmp_path, readout="paper", every=1)
    written = load_file(tmp_path / "out" / "model.safetensors")
    own, codes, controls = written["embed_tokens.weight"].split([TEXT_SIZE, CODES, 2 + SENTINELS])
    assert torch.equal(own, text.get_input_embeddings().weight)
    assert torch.equal(codes, image.get_input_embeddings().weight[IMAGE_IDS])
    assert torch.equal(controls, torch.cat([own, codes]).double().mean(0).float().expand_as(controls))
    assert "lm_head.weight" not in written  # tied, as in both parents
    assert torch.equal(written["embed_positions.weight"], text.model.decoder.embed_positions.weight)
    assert torch.equal(written["norm.bias"], text.model.decoder.final_layer_norm.bias)
    layer = "model.decoder.layers.1.fc1.weight"
    assert torch.equal(written[f"image_tower.model.{layer}"], image.state_dict()[layer])
    assert abs(written["fuse.weight"].std() * math.sqrt(8) - 1) < 0.2  # N(0, d^-1/2)
    assert written["to_text.0.o_proj.weight"].any()


@pytest.mark.parametrize("tied", [(True, False), (False, True), (False, False)])
def test_paper_keeps_the_head_of_an_untied_parent(tmp_path: Path, tied: tuple[bool, bool]) -> None:
    text = save_parent(tmp_path / "text", opt_config(TEXT_SIZE, tie_word_embeddings=tied[0]), 1)
    image = save_parent(tmp_path / "image", opt_config(TEXT_SIZE + CODES, tie_word_embeddings=tied[1]), 2)
    plan = run(tmp_path, readout="paper")
    assert {tensor.name: tensor.shape for tensor in plan.tensors} == expected_shapes(plan)
    fused = opened(tmp_path / "out")
    for got, side in ((fused.embed_tokens, "get_input_embeddings"), (fused.lm_head, "get_output_embeddings")):
        assert torch.equal(got.weight[:TEXT_SIZE], getattr(text, side)().weight)
        assert torch.equal(got.weight[IMAGE_IDS], getattr(image, side)().weight[IMAGE_IDS])
    hidden = torch.randn(1, 2, 8)
    assert torch.equal(fused.logits(hidden, torch.zeros(1, 2, dtype=torch.long)), fused.lm_head(hidden))


def test_cross_of_different_shapes_and_families(tmp_path: Path) -> None:
    save_parent(tmp_path / "text", opt_config(TEXT_SIZE, num_hidden_layers=3), 1)
    save_parent(tmp_path / "image", llama_config(TEXT_SIZE + CODES, hidden_size=16), 2)
    plan = run(tmp_path, every=1)
    assert {tensor.name: tensor.shape for tensor in plan.tensors} == expected_shapes(plan)
    assert len(opened(tmp_path / "out").to_text) == 2
    with pytest.raises(ValueError, match=r"hidden sizes differ: text 8, image 16; .*paper"):
        run(tmp_path, out=str(tmp_path / "other"), readout="paper")


def test_image_parent_without_text(tmp_path: Path) -> None:
    text = save_parent(tmp_path / "text", opt_config(TEXT_SIZE), 1)
    image = save_parent(tmp_path / "image", opt_config(CODES), 2)
    plan = run(tmp_path)
    assert (plan.vocabulary.text_size, plan.vocabulary.image_size) == (TEXT_SIZE, CODES)
    fused = opened(tmp_path / "out")
    assert len(fused.image_tower.absent_output) == 1 + 2 + SENTINELS  # </s> too
    run(tmp_path, out=str(tmp_path / "average"), method="uniform")
    table = opened(tmp_path / "average").get_input_embeddings().weight
    assert torch.equal(table[:TEXT_SIZE], text.get_input_embeddings().weight)
    assert torch.equal(table[IMAGE_IDS], image.get_input_embeddings().weight)


def test_new_weights_depend_on_the_seed_alone(tmp_path: Path) -> None:
    save_pair(tmp_path, opt_config)
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(tmp_path, out=str(tmp_path / out), every=1, seed=seed)
    a, b, c = ((tmp_path / out / "model.safetensors").read_bytes() for out in "abc")
    assert a == b and a != c


def test_half_precision_parents_are_not_rounded(tmp_path: Path) -> None:
    text, _ = save_pair(tmp_path, opt_config, torch.bfloat16)
    run(tmp_path)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    reader = CheckpointReader(tmp_path / "out")
    assert {info.dtype for info in reader.infos.values()} == {torch.bfloat16}
    name = "model.decoder.layers.0.fc1.weight"
    assert torch.equal(reader.read(f"text_tower.model.{name}"), text.state_dict()[name])
    run(tmp_path, out=str(tmp_path / "wide"), dtype="float32")
    assert CheckpointReader(tmp_path / "wide").read(f"text_tower.model.{name}").dtype is torch.float32


# --- the folder --------------------------------------------------------------------------------------------------


def test_folder_holds_everything(tmp_path: Path) -> None:
    save_pair(tmp_path, opt_config)
    (tmp_path / "image" / "image_tokenizer").mkdir()
    (tmp_path / "image" / "image_tokenizer" / "config.json").write_text("{}")
    halves = {f"{half}.weight": torch.ones(1) for half in ("encoder", "decoder")}
    save_file(halves, tmp_path / "image" / "image_tokenizer" / "model.safetensors")
    run(tmp_path, method="width", init="average")
    out = tmp_path / "out"
    files = ["README.md", "config.json", "generation_config.json", "manifest.json", "model.safetensors"]
    assert sorted(path.name for path in out.iterdir()) == sorted([*files, "image_tokenizer", "tokenizer"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image", "out", "text"]
    assert (out / "image_tokenizer" / "config.json").read_text() == "{}"
    ours, theirs = (AutoTokenizer.from_pretrained(folder) for folder in (out / "tokenizer", tmp_path / "text"))
    assert ours.get_vocab() == theirs.get_vocab() and ours("abcab").input_ids == theirs("abcab").input_ids
    manifest = Manifest.load(out)
    assert (manifest.stage, manifest.method, manifest.options) == ("fused", "width", {"init": "average"})
    assert manifest.vocabulary == Vocabulary(TEXT_SIZE, CODES, 2, SENTINELS).to_dict()
    assert manifest.image_grid == list(GRID)
    assert [(one["role"], one["name"]) for one in manifest.ancestors] == [("text", "text"), ("image", "image")]
    assert {one["architecture"] for one in manifest.ancestors} == {"OPTForCausalLM"}
    assert len({one["sha256"] for one in manifest.ancestors}) == 2
    assert str(tmp_path) not in (out / "manifest.json").read_text() + (out / "config.json").read_text()


def test_rows_of_a_manifest_are_followed(tmp_path: Path) -> None:
    """A parent of our own, with control rows before the image codes: nothing else needs to be told."""
    save_parent(tmp_path / "text", opt_config(TEXT_SIZE), 1)
    image = save_parent(tmp_path / "image", opt_config(30), 2)
    rows = ParentRows(TEXT_SIZE, image_start=20, control_start=14, control_size=4)
    vocabulary = Vocabulary(TEXT_SIZE, CODES, eos_id=2, sentinels=2)
    Manifest("parent", vocabulary=vocabulary.to_dict(), image_grid=[2, 3], rows=asdict(rows)).save(tmp_path / "image")
    with pytest.raises(ValueError, match="manifest says that its codes begin at row 20, --image-start says 12"):
        fuse(settings(tmp_path, image_start=12))
    plan = fuse(settings(tmp_path, method="uniform", sentinels=None))
    assert plan.vocabulary == vocabulary and plan.image_grid == GRID
    got = load_file(tmp_path / "out" / "model.safetensors")["model.decoder.embed_tokens.weight"]
    table = image.get_input_embeddings().weight
    assert torch.equal(got[TEXT_SIZE:], torch.cat([table[20:26], table[14:18]]))


def test_older_bin_parents_without_prefix(tmp_path: Path) -> None:
    text, _ = save_pair(tmp_path, opt_config)
    (tmp_path / "text" / "model.safetensors").unlink()
    stored = {name.removeprefix("model."): tensor for name, tensor in text.state_dict().items()}
    torch.save(stored, tmp_path / "text" / "pytorch_model.bin")
    run(tmp_path)
    written = load_file(tmp_path / "out" / "model.safetensors")
    name = "model.decoder.embed_positions.weight"
    assert torch.equal(written[f"text_tower.model.{name}"], text.state_dict()[name])


def test_new_weights_spread_as_the_family_says(tmp_path: Path) -> None:
    """A field of another family's name in config.json changes nothing, neither in fusing nor in loading."""
    for name, make, changes in (
        ("opt", opt_config, {"init_std": 0.3, "initializer_range": 7.0}),
        ("llama", llama_config, {"initializer_range": 0.3, "init_std": 7.0}),
    ):
        save_pair(tmp_path / name, make, **changes)
        plan = run(tmp_path / name, every=1)
        assert {t.operation for t in plan.tensors if t.operation.startswith("new: normal")} == {
            "new: normal, standard deviation 0.3"
        }
        joint = jam.load(tmp_path / name / "out", device="cpu").joint
        assert joint.config.fresh_std == 0.3
        torch.manual_seed(0)
        fresh = type(joint)(joint.config)
        assert 0.2 < fresh.to_text[0].state_dict()[next(iter(query_names(fresh)))].std() < 0.4


def query_names(model: torch.nn.Module) -> list[str]:
    return [name for name in model.to_text[0].state_dict() if name.endswith("q_proj.weight")]
