"""`jam verify` on configs: a setting that no document shows, and a parent that no document runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import jam
from jam.cli import main
from jam.documents import Document, Image, Message, Text, write_documents
from jam.evaluation.tensors import ChangedSetting
from support.composites import COMPOSITES, save
from support.composites import run as run_family
from support.family_pairs import IMAGE_SIZES, gemma2, llama, wide_gemma3
from support.fusion_parents import TEXT_SIZE, llama_config, run, save_pair, save_unlike_contexts
from support.proofs import changes
from support.resealed import reseal

TEXT, PICTURE = Document([Text("abc")]), Document([Image(codes=[0, 1, 2, 3, 4, 5])])


@pytest.fixture
def jam_verify(capsys: Any, tmp_path: Path) -> Callable[..., tuple[int, str, dict[str, Any]]]:
    """Status, last line and report of `jam verify out` on documents."""

    def call(*documents: Document, more: tuple[str, ...] = ()) -> tuple[int, str, dict[str, Any]]:
        write_documents(tmp_path / "documents.jsonl", documents)
        words = [
            "verify",
            str(tmp_path / "out"),
            "--device",
            "cpu",
            "--json",
            str(tmp_path / "proof.json"),
            "--answer-ids",
            "4",
            *more,
        ]
        status = main([*words, "--documents", str(tmp_path / "documents.jsonl")])
        report = json.loads((tmp_path / "proof.json").read_text())
        return status, capsys.readouterr().out.splitlines()[-1], report

    return call


def edit(folder: Path, role: str, **fields: Any) -> None:
    """Change fields of a tower's config in the fused folder."""
    path = folder / "out" / "config.json"
    config = json.loads(path.read_text())
    config[f"{role}_config"] |= fields
    path.write_text(json.dumps(config))
    reseal(folder / "out")


# --- settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["text", "image"])
def test_a_changed_setting_fails(tmp_path: Path, jam_verify: Any, role: str) -> None:
    """Where the parent is not run, too."""
    save_pair(tmp_path, llama_config)
    run(tmp_path)
    edit(tmp_path, role, rms_norm_eps=0.5)
    status, printed, report = jam_verify(TEXT)
    assert (status, report["verdict"]) == (1, "beyond tolerance")
    assert not any(report["changed_tensors"].values()) and not report["changed_rows"]
    found = {"name": "rms_norm_eps", "parent": 1e-6, "fused": 0.5}
    assert report["changed_settings"] == {"text": [], "image": []} | {role: [found]}
    assert printed.endswith(f"; settings that are not the parents': {role}: rms_norm_eps 0.5 instead of 1e-06")


def test_what_a_decoder_computes_with_is_compared(tmp_path: Path) -> None:
    save_pair(tmp_path, llama_config)
    run(tmp_path)
    edit(tmp_path, "text", architectures=["Other"], id2label={"0": "a"})
    assert changes(tmp_path).settings == {"text": [], "image": []}
    rope = {"rope_type": "default", "rope_theta": 3.0}
    edit(tmp_path, "text", max_position_embeddings=4096, rope_parameters=rope, hidden_act="relu")
    assert changes(tmp_path).settings["text"] == [
        ChangedSetting("hidden_act", "silu", "relu"),
        ChangedSetting("max_position_embeddings", 16, 4096),
        ChangedSetting("rope_parameters", {"rope_type": "default", "rope_theta": 10000.0}, rope),
    ]


def test_a_window_that_is_longer_than_the_documents(tmp_path: Path, jam_verify: Any) -> None:
    save(tmp_path / "text", gemma2())
    save(tmp_path / "image", llama(**IMAGE_SIZES))
    run_family(tmp_path)
    picture = Document([Image(codes=list(range(16)))])
    status, printed, report = jam_verify(TEXT, picture)
    assert (status, report["verdict"]) == (0, "exact") and "nothing of either parent was lost" in printed
    edit(tmp_path, "text", sliding_window=50)
    status, printed, report = jam_verify(TEXT, picture)
    assert (status, report["verdict"], report["max_logit_difference"]) == (1, "beyond tolerance", 0.0)
    assert printed.endswith("settings that are not the parents': text: sliding_window 50 instead of 5")
    status, _, report = jam_verify(TEXT, picture, more=("--tolerance", "1e-9"))
    assert (status, report["verdict"]) == (0, "within tolerance")


@pytest.mark.parametrize("image", COMPOSITES)
def test_settings_of_every_class_are_the_parents(tmp_path: Path, image: str) -> None:
    save(tmp_path / "text", wide_gemma3(vocab_size=TEXT_SIZE))
    save(tmp_path / "image", COMPOSITES[image]())
    run_family(tmp_path)
    assert changes(tmp_path).settings == {"text": [], "image": []}


def test_a_longer_context_than_it_was_fused_for(tmp_path: Path, jam_verify: Any) -> None:
    """As by `--context 60`, which nobody gave: positions are not the parent's then."""
    save_unlike_contexts(tmp_path)
    run(tmp_path, context=40)
    path = tmp_path / "out" / "config.json"
    rope = json.loads(path.read_text())["image_config"]["rope_parameters"]
    edit(tmp_path, "image", max_position_embeddings=60, rope_parameters=rope | {"rope_type": "linear", "factor": 1.5})
    status, printed, report = jam_verify(TEXT, PICTURE)
    assert (status, list(report["interpolated"])) == (1, ["text"])
    assert [one["name"] for one in report["changed_settings"]["image"]] == [
        "max_position_embeddings",
        "rope_parameters",
    ]
    assert "image: max_position_embeddings 60 instead of 40, rope_parameters {'factor': 1.5" in printed


# --- what was not measured ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (TEXT, "the image parent was not run, for no document has a picture"),
        (
            Document(messages=[Message("user", [Text("abc")]), Message("assistant", PICTURE.content)]),
            "the text parent was not run, for no document has text",
        ),
    ],
    ids=["text", "pictures"],
)
def test_a_parent_that_was_not_run_is_said(tmp_path: Path, jam_verify: Any, document: Document, said: str) -> None:
    save_pair(tmp_path, llama_config)
    run(tmp_path)
    status, printed, report = jam_verify(document)
    assert (status, report["verdict"]) == (0, "exact as far as measured")
    assert printed == f"exact as far as measured: greatest difference of logits 0; {said}"


def test_interpolated_and_not_run(tmp_path: Path, jam_verify: Any) -> None:
    save_unlike_contexts(tmp_path)
    run(tmp_path, context=40)
    status, printed, _ = jam_verify(TEXT)
    assert status == 0 and printed.startswith("exact as far as measured under interpolated positions (text): greatest")
    assert printed.endswith("; the image parent was not run, for no document has a picture")


def test_a_model_whose_tensors_are_not_compared(tmp_path: Path, jam_verify: Any) -> None:
    """Trained, and it computes the same on these documents."""
    save_pair(tmp_path, llama_config)
    run(tmp_path)
    model = jam.load(tmp_path / "out", device="cpu")
    with torch.no_grad():
        model.joint.text_tower.model.model.embed_tokens.weight[1] += 1  # <pad>
    (tmp_path / "out").rename(tmp_path / "fused")
    (tmp_path / "out").mkdir()
    model.folder = tmp_path / "fused"
    model.save(tmp_path / "out", "aligned")
    status, printed, report = jam_verify(TEXT, PICTURE, more=("--tolerance", "0"))
    assert (status, report["verdict"], report["changed_settings"]) == (0, "exact as far as measured", {})
    assert printed.endswith("; tensors were not compared, for a model of stage aligned was trained since it was fused")
