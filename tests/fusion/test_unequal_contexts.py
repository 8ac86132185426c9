"""Parents whose contexts differ, and longer contexts by interpolated positions (docs/unequal-parents.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma3TextConfig, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from jam.cli import main
from jam.documents import Document, Image, Text, write_documents
from jam.fusion import Parent, fuse
from jam.fusion.positions import StretchedPositions, stretched_settings
from jam.models import CrossForCausalLM
from support.families import LINEAR, LLAMA3, WHOLE, WINDOW, YARN
from support.fusion_parents import (
    CODES,
    TEXT_SIZE,
    llama_config,
    opened,
    run,
    save_parent,
    save_unlike_contexts,
    settings,
)

POSITIONS = "model.decoder.embed_positions.weight"


def verified(folder: Path, capsys: Any, *more: str) -> tuple[int, str, dict[str, Any]]:
    """Status, what was printed and the report of `jam verify` on documents longer than 16 tokens."""
    picture = Image(codes=[0, 1, 2, 3, 4, 5])
    documents = [Document([Text("abcdefg" * 4)]), Document([Text("gfedcbadg" * 2), picture, Text("ab")])]
    write_documents(folder / "page.jsonl", documents)
    arguments = ["--documents", str(folder / "page.jsonl"), "--json", str(folder / "proof.json"), "--device", "cpu"]
    status = main(["verify", str(folder / "out"), "--answer-ids", "4", *arguments, *more])
    return status, capsys.readouterr().out, json.loads((folder / "proof.json").read_text())


@pytest.mark.parametrize(("text", "image"), [("opt", "llama"), ("llama", "opt"), ("llama", "llama"), ("opt", "opt")])
def test_positions_are_interpolated(tmp_path: Path, capsys: Any, text: str, image: str) -> None:
    save_unlike_contexts(tmp_path, text, image)
    plan = run(tmp_path, context=40, every=1)
    assert any(note.startswith("positions of the text parent are interpolated from 16 to 40") for note in plan.notes)
    status, printed, report = verified(tmp_path, capsys)
    assert (status, report["verdict"], report["pieces"]) == (0, "exact", 2)
    assert report["interpolated"] == {"text": [16, 40]} and not any(report["changed_tensors"].values())
    assert printed.splitlines()[-1] == "exact under interpolated positions (text): greatest difference of logits 0"
    assert "note: positions of the text parent were interpolated from 16 to 40" in printed
    model = opened(tmp_path / "out")
    assert isinstance(model, CrossForCausalLM) and model.context_length == 40
    with torch.no_grad():
        assert model.hidden(torch.arange(40)[None] % TEXT_SIZE).isfinite().all()


def test_both_parents_may_be_shorter(tmp_path: Path, capsys: Any) -> None:
    save_unlike_contexts(tmp_path)
    plan = run(tmp_path, context=60)
    assert plan.config.max_position_embeddings == 60
    status, _, report = verified(tmp_path, capsys)
    assert (status, report["interpolated"]) == (0, {"text": [16, 60], "image": [40, 60]})


def test_rounding_is_the_same_on_both_sides(tmp_path: Path, capsys: Any) -> None:
    save_unlike_contexts(tmp_path)
    run(tmp_path, context=40, dtype="bfloat16")
    status, _, report = verified(tmp_path, capsys, "--dtype", "bfloat16")
    assert (status, report["verdict"]) == (0, "exact")


def test_another_position_is_found(tmp_path: Path, capsys: Any) -> None:
    save_unlike_contexts(tmp_path)
    run(tmp_path, context=40)
    path, name = tmp_path / "out" / "model.safetensors", f"text_tower.model.{POSITIONS}"
    tensors = load_file(path)
    tensors[name][9] += 0.1
    save_file(tensors, path, metadata={"format": "pt"})
    status, _, report = verified(tmp_path, capsys)
    assert status == 1 and report["changed_tensors"] == {"text": [POSITIONS], "image": []}
    assert report["text"]["max_logit_difference"] > 0


@pytest.mark.parametrize(("block", "new"), [(2**17, 40), (24, 40), (24, 17), (40, 1000)])
def test_a_table_of_positions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, new: int) -> None:
    """First and last position keep their rows, and those between lie on lines; blocks of any size give the same."""
    monkeypatch.setattr("jam.fusion.blocks.BLOCK", block)  # rows of 8 numbers
    text, _ = save_unlike_contexts(tmp_path, "opt", "opt")
    parent = Parent.describe(tmp_path / "text", "text").stretched(new)
    old, made = text.state_dict()[POSITIONS], parent.made[POSITIONS]
    assert isinstance(made, StretchedPositions) and (made.offset, made.old, made.new) == (2, 16, new)
    got = torch.cat([rows.clone() for rows in made.blocks(parent.table(POSITIONS))])
    assert torch.equal(got, made.compute(old)) and got.shape == (2 + new, 8)
    for at, row in ((0, 0), (1, 1), (2, 2), (-1, -1)):
        assert torch.equal(got[at], old[row])
    wanted = torch.nn.functional.interpolate(old[2:].T[None], size=new, mode="linear", align_corners=True)[0].T
    torch.testing.assert_close(got[2:], wanted)


@pytest.mark.parametrize(
    ("rope", "wanted"),
    [
        ({"rope_type": "default", "rope_theta": 10.0}, {"rope_type": "linear", "rope_theta": 10.0, "factor": 2.5}),
        (LINEAR, LINEAR | {"factor": 10.0}),
        (LLAMA3, LLAMA3 | {"factor": 20.0}),
        (YARN, YARN | {"factor": 5.0}),
    ],
    ids=lambda value: value["rope_type"],
)
def test_rotary_positions(rope: dict[str, Any], wanted: dict[str, Any]) -> None:
    config = LlamaConfig(max_position_embeddings=64, rope_parameters=rope)
    stretched = stretched_settings(config, 160, "the text parent")
    assert {key: stretched.rope_parameters[key] for key in wanted} == wanted
    assert stretched.max_position_embeddings == 160 and config.max_position_embeddings == 64
    again = LlamaConfig(**stretched.to_dict())
    assert {key: again.rope_parameters[key] for key in wanted} == wanted


def test_a_position_of_the_longer_context_is_one_of_the_shorter() -> None:
    """Twice the context: the rotation of position 2 n is that of position n before."""
    config = llama_config(TEXT_SIZE)
    plain, long = (llama_rotary(one) for one in (config, stretched_settings(config, 32, "the text parent")))
    torch.testing.assert_close(long[:, ::2], plain[:, :8])


def llama_rotary(config: Any) -> torch.Tensor:
    """Cosines of 16 positions."""
    return LlamaRotaryEmbedding(config)(torch.zeros(1, 16, 4), torch.arange(16)[None])[0]


def test_layers_that_see_a_window_keep_their_positions() -> None:
    rope = {WHOLE: LINEAR, WINDOW: {"rope_type": "default", "rope_theta": 10.0}}
    sizes = {"num_hidden_layers": 2, "max_position_embeddings": 64, "sliding_window": 5}
    config = Gemma3TextConfig(**sizes, layer_types=[WINDOW, WHOLE], rope_parameters=rope)
    stretched = stretched_settings(config, 128, "the text parent")
    assert stretched.rope_parameters[WHOLE]["factor"] == 2 * LINEAR["factor"]
    assert stretched.rope_parameters[WINDOW] == config.rope_parameters[WINDOW] and stretched.sliding_window == 5
    local = Gemma3TextConfig(**sizes, layer_types=[WINDOW, WINDOW], rope_parameters=rope)
    assert stretched_settings(local, 128, "the text parent").rope_parameters == local.rope_parameters


def test_the_smaller_context_wins(tmp_path: Path, capsys: Any) -> None:
    save_unlike_contexts(tmp_path)
    plan = run(tmp_path)
    assert plan.config.max_position_embeddings == 16
    assert (
        "the context is the text parent's, 16 tokens; the image parent has 40 (--context interpolates positions)"
        in (plan.notes)
    )
    assert not any("does not fit" in note for note in plan.notes)
    larger = fuse(settings(tmp_path, plan=True), (CODES, (3, 5)))
    assert any(
        note.startswith("a picture has 15 tokens and does not fit into the context of 16") for note in larger.notes
    )
    status, printed, report = verified(tmp_path, capsys)
    assert status == 0 and report["interpolated"] == {} and "nothing of either parent was lost" in printed


def test_readout_paper(tmp_path: Path) -> None:
    text, _ = save_unlike_contexts(tmp_path)
    run(tmp_path, context=40, readout="paper")
    made = load_file(tmp_path / "out" / "model.safetensors")["embed_positions.weight"]
    assert made.shape == (42, 8) and torch.equal(made[-1], text.state_dict()[POSITIONS][-1])
    assert opened(tmp_path / "out").context_length == 40


def test_mistakes_are_explained(tmp_path: Path) -> None:
    save_unlike_contexts(tmp_path)
    with pytest.raises(ValueError, match=r"--context 12: the text parent takes 16 tokens and the image parent 40; a"):
        run(tmp_path, context=12)
    with pytest.raises(ValueError, match=r"--context 40: only cross fusion has it; leave it out"):
        run(tmp_path, context=40, method="uniform")
    dynamic = {"rope_type": "dynamic", "rope_theta": 10.0, "factor": 2.0}
    save_parent(tmp_path / "image", llama_config(TEXT_SIZE + CODES, rope_parameters=dynamic), 2)
    with pytest.raises(ValueError, match=r"image parent .* are of the type 'dynamic', which cannot be .*--context out"):
        run(tmp_path, context=40)
    assert not (tmp_path / "out").exists()
    assert run(tmp_path, context=16).config.max_position_embeddings == 16  # both have it
