"""Uniform and width of whole checkpoints (Chameleon, Emu3): the result is one, which `transformers` opens by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    ChameleonForConditionalGeneration,
    Emu3ForConditionalGeneration,
    OPTConfig,
)
from transformers.models.emu3.configuration_emu3 import Emu3TextConfig

import jam
from jam.checkpoints import Manifest
from jam.fusion import Parent, fuse
from jam.models import SingleDecoder
from jam.vocabulary import ParentRows
from support.families import chameleon, decoder_tensors, randomised, text_logits
from support.fusion_parents import CODES as LLAMA_CODES
from support.fusion_parents import IMAGE_TOKENIZER, TEXT_SIZE, llama_config, save_parent, settings
from support.image_map_pairs import entries, rows_of_codes, run, save_pair

CLASSES: dict[str, Any] = {"chameleon": ChameleonForConditionalGeneration, "emu3": Emu3ForConditionalGeneration}
WHOLE = pytest.mark.parametrize("family", CLASSES)
METHODS = pytest.mark.parametrize("method", ["uniform", "width"])
WEIGHTS = "model.safetensors"


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def twins(family: str, folder: Path) -> list[Any]:
    """A pair of one shape: untied, and without norms behind the layers."""
    parents = save_pair(family, folder, tied=False)
    if family == "emu3":
        return parents
    config = chameleon(vocabulary_map=entries(family), vocab_size=parents[0].config.vocab_size)
    for index, role in enumerate(("text", "image")):
        parents[index] = randomised(ChameleonForConditionalGeneration(config))
        parents[index].save_pretrained(folder / role)
    return parents


def opened(family: str, folder: Path) -> Any:
    model, info = CLASSES[family].from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


@WHOLE
@METHODS
def test_the_result_opens_in_transformers_and_in_jam(family: str, method: str, tmp_path: Path) -> None:
    _, image = twins(family, tmp_path)
    plan = run(tmp_path, method=method)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == [CLASSES[family].__name__]
    whole = opened(family, tmp_path / "out")
    assert whole.num_parameters() + sum(buffer.numel() for _, buffer in saved_buffers(whole)) == plan.parameters
    for name, tensor in image.model.vqmodel.state_dict().items():
        assert torch.equal(whole.model.vqmodel.state_dict()[name], tensor), name
    # The ids of image codes are those of the parents, in their names too.
    assert whole.config.vocabulary_map == image.config.vocabulary_map
    rows, v = rows_of_codes(family), plan.vocabulary
    expected = ParentRows.of_codes(v.text_size, rows)
    assert plan.rows == ParentRows(
        v.text_size, expected.image_start, v.text_size, v.control_size, image_rows=expected.image_rows
    )

    model = jam.load(tmp_path / "out", device="cpu")
    assert isinstance(model.joint, SingleDecoder)
    ids = torch.tensor([[v.eos_id, 30, v.break_id, v.image_start + 3, v.image_start + 5]])
    with torch.no_grad():
        wanted = text_logits(whole, torch.tensor([[v.eos_id, 30, v.text_size, rows[3], rows[5]]]))
        got = model.joint.logits(model.joint.hidden(ids))
    assert torch.equal(got[..., v.image_start : v.control_start], wanted[..., rows])
    assert torch.equal(got[..., v.control_start :], wanted[..., v.text_size :])

    # Trained and saved, it is still whole.
    with torch.no_grad():
        model.joint.model.get_output_embeddings().weight[30] += 1
    (tmp_path / "again").mkdir()
    model.save(tmp_path / "again", stage="aligned")
    again = opened(family, tmp_path / "again")
    assert torch.equal(again.lm_head.weight[30], whole.lm_head.weight[30] + 1)
    assert torch.equal(again.model.vqmodel.state_dict()[name], whole.model.vqmodel.state_dict()[name])
    (tmp_path / "third").mkdir()
    head = model.joint.model.get_output_embeddings().weight
    tensors = {key: head - 1 if value is head else value for key, value in model.joint.named_parameters()}
    model.save(tmp_path / "third", tensors=tensors)  # of other tensors than its own, as a run saves it
    third = opened(family, tmp_path / "third")
    assert torch.equal(third.lm_head.weight, head - 1)
    assert torch.equal(third.model.vqmodel.state_dict()[name], whole.model.vqmodel.state_dict()[name])


def test_a_plan_needs_no_weights(tmp_path: Path) -> None:
    twins("chameleon", tmp_path)
    whole = run(tmp_path, method="uniform")
    for role in ("text", "image"):
        (tmp_path / role / WEIGHTS).unlink()
    plan = run(tmp_path, method="uniform", plan=True)
    assert (plan.architecture, plan.parameters) == (whole.architecture, whole.parameters)


def saved_buffers(model: Any) -> list[tuple[str, torch.Tensor]]:
    stored = model.state_dict().keys()
    return [(name, buffer) for name, buffer in model.named_buffers() if name in stored]


@WHOLE
def test_uniform_is_the_average(family: str, tmp_path: Path) -> None:
    text, image = (decoder_tensors(parent) for parent in twins(family, tmp_path))
    v = run(tmp_path, method="uniform", weight=0.25).vocabulary
    fused = decoder_tensors(opened(family, tmp_path / "out"))
    for name, tensor in text.items():
        expected, got = 0.25 * tensor + 0.75 * image[name], fused[name]
        if "embed_tokens" in name or "lm_head" in name:
            expected, got = expected[: v.text_size], got[: v.text_size]  # letters and codes; padding is left out
        torch.testing.assert_close(got, expected)


def test_the_image_tokenizer_comes_from_the_parent_that_has_one(tmp_path: Path) -> None:
    text, _ = twins("emu3", tmp_path)
    without_tokenizer(tmp_path / "image")
    run(tmp_path, method="uniform")
    fused = opened("emu3", tmp_path / "out")
    for name, tensor in text.model.vqmodel.state_dict().items():
        assert torch.equal(fused.model.vqmodel.state_dict()[name], tensor), name
    without_tokenizer(tmp_path / "text")
    plan = run(tmp_path, method="uniform", out=str(tmp_path / "decoder"))
    assert plan.architecture == "Emu3ForCausalLM"  # which transformers has
    jam.load(tmp_path / "decoder", device="cpu")


def without_tokenizer(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({name: tensor for name, tensor in tensors.items() if "vqmodel" not in name}, folder / WEIGHTS)


def test_chameleons_without_image_tokenizer_are_refused(tmp_path: Path) -> None:
    twins("chameleon", tmp_path)
    for role in ("text", "image"):
        without_tokenizer(tmp_path / role)
    with pytest.raises(ValueError, match=r"neither parent holds that of a ChameleonForCond.*choose cross \(--method"):
        run(tmp_path, method="uniform")
    run(tmp_path)


def test_norms_before_and_behind_the_layers_are_two_architectures(tmp_path: Path) -> None:
    save_pair("chameleon", tmp_path)
    with pytest.raises(ValueError, match=r"swin_norm: text False, image True; uniform .*cross \(--method cross\) does"):
        run(tmp_path, method="uniform")


def test_verify_measures_a_whole_checkpoint(tmp_path: Path, capsys: Any) -> None:
    from jam.cli import main

    twins("chameleon", tmp_path)
    run(tmp_path, method="uniform")
    (tmp_path / "a.jsonl").write_text('{"id": "a", "content": [{"type": "text", "text": "a cat"}]}\n')
    assert main(["verify", str(tmp_path / "out"), "--device", "cpu", "--documents", str(tmp_path / "a.jsonl")]) == 0
    assert "not promised: uniform fusion averages the parents" in capsys.readouterr().out


# Parents without tokenizer files


def save_llamas(folder: Path, text_rows: int) -> None:
    for seed, (role, rows) in enumerate((("text", text_rows), ("image", TEXT_SIZE + LLAMA_CODES))):
        save_parent(folder / role, llama_config(rows), seed)


def drop_tokenizer(*folders: Path) -> None:
    for folder in folders:
        for path in folder.glob("*token*"):
            path.unlink()


@pytest.mark.parametrize("method", ["uniform", "width", "cross"])
def test_tables_of_one_size_need_no_tokenizer(tmp_path: Path, method: str) -> None:
    save_llamas(tmp_path, TEXT_SIZE + LLAMA_CODES)
    drop_tokenizer(tmp_path / "text", tmp_path / "image")
    plan = fuse(settings(tmp_path, method=method), IMAGE_TOKENIZER)
    assert (plan.vocabulary.text_size, plan.vocabulary.image_size) == (TEXT_SIZE, LLAMA_CODES)
    assert any("no parent has tokenizer files" in note for note in plan.notes)
    assert plan.notes == Manifest.load(tmp_path / "out").notes
    with pytest.raises(ValueError, match=r"holds no tokenizer; copy its files into .*tokenizer"):
        jam.load(tmp_path / "out", device="cpu")


def test_the_image_parents_tokenizer_serves_for_both(tmp_path: Path) -> None:
    save_llamas(tmp_path, TEXT_SIZE + LLAMA_CODES)
    drop_tokenizer(tmp_path / "text")
    plan = fuse(settings(tmp_path, method="uniform"), IMAGE_TOKENIZER)
    assert any("assumed: the image parent's" in note for note in plan.notes)
    jam.load(tmp_path / "out", device="cpu")


def test_tables_of_two_sizes_need_one(tmp_path: Path) -> None:
    save_llamas(tmp_path, TEXT_SIZE)
    drop_tokenizer(tmp_path / "text", tmp_path / "image")
    with pytest.raises(ValueError, match=r"has no tokenizer.*table is not as long as the image parent's.*copy the"):
        fuse(settings(tmp_path, method="uniform"), IMAGE_TOKENIZER)


# Dropout


def test_fusions_have_no_dropout(tmp_path: Path) -> None:
    """Emu3 and OPT name 0.1 by default: fused, they compute the same in training as without."""
    for made in (OPTConfig(), Emu3TextConfig()):
        assert max(getattr(made, "dropout", 0), made.attention_dropout) == 0.1
    twins("emu3", tmp_path)
    for method in ("cross", "uniform"):
        run(tmp_path, method=method, out=str(tmp_path / method))
        joint = jam.load(tmp_path / method, device="cpu").joint
        ids = torch.tensor([[2, 30, 31, 32]])
        with torch.no_grad():
            expected = joint.eval().hidden(ids)
            assert torch.equal(joint.train().hidden(ids), expected)
    assert Parent.describe(tmp_path / "text", "text").config.attention_dropout == 0
