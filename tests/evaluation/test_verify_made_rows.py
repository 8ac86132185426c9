"""`jam verify` on rows that fusion makes: for the text of another tokenizer, and for ids that a parent lacks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import jam
from jam.evaluation.tensors import ChangedRows, Changes
from support.fusion_parents import llama_config
from support.fusion_parents import run as fuse_plain
from support.fusion_parents import save_pair as save_plain
from support.proofs import changes
from support.resealed import reseal
from support.unlike_pairs import run, save_pair, verified, write_page
from support.unlike_tokenizers import LETTER_OF, byte_level, sentencepiece, unigram

WEIGHTS = "model.safetensors"
MADE = "image_tower.text_input"
G = LETTER_OF[32]  # a space in byte-level tokens
NOTHING = Changes({"text": [], "image": []}, [], {"text": [], "image": []})
LETTERS = sorted(LETTER_OF.values())  # ids from 2 on
HOUSE = byte_level().convert_tokens_to_ids(f"{G}house")


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fused pair whose tokenizers differ, in bfloat16, and a page."""
    folder = tmp_path_factory.mktemp("fused")
    save_pair(folder)
    run(folder, dtype="bfloat16")
    write_page(folder / "page.jsonl")
    return folder


@pytest.fixture
def unlike(fused: Path, tmp_path: Path) -> Path:
    """A copy, to be changed."""
    return Path(shutil.copytree(fused, tmp_path / "copy"))


def proof_of(folder: Path) -> tuple[int, dict[str, Any]]:
    return verified(folder, "--dtype", "bfloat16", "--documents", str(folder / "page.jsonl"))


def change(folder: Path, name: str, edit: Callable[[Tensor], Any]) -> None:
    tensors = load_file(folder / "out" / WEIGHTS)
    edit(tensors[name])
    save_file(tensors, folder / "out" / WEIGHTS, metadata={"format": "pt"})
    reseal(folder / "out")


def test_a_pair_with_unlike_tokenizers_passes(fused: Path) -> None:
    status, report = proof_of(fused)
    assert (status, report["verdict"], report["changed_rows"]) == (0, "exact", [])


@pytest.mark.parametrize("image", [sentencepiece, unigram])
def test_rows_do_not_depend_on_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: Any) -> None:
    """With tokens that stand for nothing (unigram), in float32."""
    save_pair(tmp_path, image=image)
    with monkeypatch.context() as patch:
        patch.setattr("jam.fusion.blocks.BLOCK", 230)  # seven rows of 32 numbers
        run(tmp_path)
    assert changes(tmp_path) == NOTHING


def test_a_changed_row_of_text_input_fails_and_is_named(unlike: Path, capsys: Any) -> None:
    """No document reads it."""
    change(unlike, MADE, lambda rows: rows[HOUSE, 3].add_(0.1))
    status, report = proof_of(unlike)
    assert (status, report["verdict"], report["max_logit_difference"]) == (1, "beyond tolerance", 0.0)
    size = len(byte_level())
    assert report["changed_rows"] == [{"tensor": MADE, "rows": 1, "of": size, "token": f"{G}house"}]
    assert report["changed_tensors"] == {"text": [], "image": []}
    printed = capsys.readouterr().out
    assert f"not as fusion makes them: {MADE} (1 of {size} rows, first '{G}house')" in printed.splitlines()[-1]
    (line,) = (line for line in printed.splitlines() if "rows that are not as fusion makes them" in line)
    assert [cell.strip() for cell in line.strip("│ ").split("│")][1:] == ["0", "1"]


def test_rows_are_counted(unlike: Path) -> None:
    """Those of other tokens in their place, as another way to make them would have."""
    change(unlike, MADE, lambda rows: rows[10:].copy_(rows[10:].roll(1, 0)))
    (changed,) = changes(unlike, torch.bfloat16).rows
    assert changed == ChangedRows(MADE, len(byte_level()) - 10, len(byte_level()), LETTERS[10 - 2])


def test_the_last_bit_counts(unlike: Path) -> None:
    change(unlike, MADE, lambda rows: rows.view(torch.int16)[HOUSE, 3].bitwise_xor_(1))
    assert changes(unlike, torch.bfloat16).rows == [ChangedRows(MADE, 1, len(byte_level()), f"{G}house")]


def test_rows_of_ids_that_a_parent_lacks(tmp_path: Path) -> None:
    """A changed output row of a control changes no logit that is compared."""
    save_plain(tmp_path, llama_config)
    fuse_plain(tmp_path)
    assert changes(tmp_path) == NOTHING
    for name, row in (
        ("image_tower.absent_input", 2),
        ("image_tower.absent_output", 0),
        ("text_tower.absent_input", 0),
    ):
        change(tmp_path, name, lambda rows, row=row: rows[row].neg_())  # type: ignore[misc]
    change(tmp_path, "text_tower.absent_output", lambda rows: rows[-2:].neg_())
    change(tmp_path, "image_tower.model.model.norm.weight", lambda weight: weight[:2].zero_())
    found = changes(tmp_path)
    assert found.tensors == {"text": [], "image": ["model.norm.weight"]}
    assert sorted(found.rows, key=lambda one: one.tensor) == [
        ChangedRows("image_tower.absent_input", 1, 6, "<eoss>"),
        ChangedRows("image_tower.absent_output", 1, 5, "<break>"),
        ChangedRows("text_tower.absent_input", 1, 6, None),
        ChangedRows("text_tower.absent_output", 2, 5, "<sentinel:1>"),
    ]


def test_new_weights_of_the_exchange_are_made_of_neither_parent(unlike: Path) -> None:
    change(unlike, "to_text.0.q_proj.weight", lambda weight: weight.zero_())
    assert changes(unlike, torch.bfloat16) == NOTHING


def test_a_trained_model_makes_no_promise(unlike: Path, capsys: Any) -> None:
    model = jam.load(unlike / "out", device="cpu")
    with torch.no_grad():
        model.joint.image_tower.text_input[HOUSE] += 0.1
    model.save(unlike / "again", "aligned")
    (unlike / "out").rename(unlike / "fused")
    (unlike / "again").rename(unlike / "out")
    status, report = proof_of(unlike)
    assert (status, report["verdict"], report["changed_rows"]) == (0, "not promised", [])
    assert "rows that are not as fusion makes them" not in capsys.readouterr().out


def test_a_tensor_that_is_missing(unlike: Path) -> None:
    tensors = load_file(unlike / "out" / WEIGHTS)
    del tensors[MADE]
    save_file(tensors, unlike / "out" / WEIGHTS, metadata={"format": "pt"})
    reseal(unlike / "out")
    with pytest.raises(ValueError, match=rf"1 missing \({MADE}\)"):
        changes(unlike, torch.bfloat16)
