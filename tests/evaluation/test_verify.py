"""`jam verify`: what a fused folder kept of its parents, and how it is shown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import jam
from jam.checkpoints import Manifest, memory, sha256_of
from jam.documents import Document, Image, Message, Text, write_documents
from jam.evaluation import compare_with_parents, verify
from jam.evaluation.loading import load_parent
from jam.evaluation.samples import text_behind_pictures
from jam.fusion import FuseConfig, Parent
from jam.fusion import fuse as fuse_parents
from jam.grammar import Grammar, State
from jam.tutorials import PARENTS
from jam.vocabulary import ParentRows, Vocabulary
from support.fusion_parents import CODES, GRID, TEXT_SIZE, llama_config, opt_config, save_pair, save_parent
from support.fusion_parents import run as fuse
from support.resealed import reseal

LLAMA = pytest.param(llama_config, id="llama")
FAMILIES = pytest.mark.parametrize("make", [pytest.param(opt_config, id="opt"), LLAMA])
LLAMA_FIRST = pytest.mark.parametrize("make", [pytest.param(opt_config, id="opt", marks=pytest.mark.slow), LLAMA])
WEIGHTS = "model.safetensors"
ROOM = {"max_position_embeddings": 256}  # for a built-in lesson with its picture, a letter a token


def change(folder: Path, name: str, place: tuple[int, ...], by: float = 0.1) -> None:
    """Change one weight of a folder, and its checksum if it has one."""
    tensors = load_file(folder / WEIGHTS)
    tensors[name][place] += by
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    if (folder / "manifest.json").is_file():
        reseal(folder)


def sha256_of_parent(home: Path, role: str) -> str:
    parent = Parent.describe(home / role, role)
    return parent.ancestor({path.name: sha256_of(path) for path in parent.files})["sha256"]


def last(printed: str) -> str:
    return printed.splitlines()[-1]


# --- exact -------------------------------------------------------------------------------------------------------


@FAMILIES
@pytest.mark.parametrize("every", [0, 1])
def test_an_exact_pair_passes_with_0(tmp_path: Path, jam_verify: Any, make: Any, every: int) -> None:
    save_pair(tmp_path, make, **ROOM)
    fuse(tmp_path, every=every)
    status, printed, report = jam_verify()
    assert status == 0 and last(printed).startswith("exact: greatest difference of logits 0;")
    assert (report["verdict"], report["way"], report["tolerance"]) == ("exact", "tower by tower", 0.0)
    for role in ("text", "image"):
        kept = report[role]
        assert (kept["max_logit_difference"], kept["changed_tokens"]) == (0.0, 0) and kept["tokens"] > 20
        assert report["changed_tensors"][role] == []
    assert report["image"]["fused_ppl"] == report["image"]["parent_ppl"] > 1
    # New rows take some of the probability, all of it in text.
    assert report["text"]["fused_ppl"] > report["text"]["parent_ppl"]
    assert 0 < report["text"]["new_control_probability"] < 1 and report["image"]["new_control_probability"] == 0
    behind = report["behind_pictures"]
    assert behind["tokens"] > 0 and behind["with_pictures"] != behind["without"]
    assert [one["role"] for one in report["parents"]] == ["text", "image"]
    assert str(tmp_path) not in json.dumps(report)


@LLAMA_FIRST
def test_tower_by_tower_gives_what_the_whole_model_gives(
    tmp_path: Path, jam_verify: Any, make: Any, monkeypatch: Any
) -> None:
    save_pair(tmp_path, make, **ROOM)
    fuse(tmp_path, every=1)
    _, _, towers = jam_verify()
    monkeypatch.setattr("jam.evaluation.proof.exchange_is_identity", lambda reader: False)
    status, _, whole = jam_verify()
    assert status == 0 and (towers.pop("way"), whole.pop("way")) == ("tower by tower", "whole")
    assert towers == whole


@pytest.mark.parametrize(
    "image", [{"vocab_size": TEXT_SIZE + CODES + 3}, {"vocab_size": CODES}], ids=["padded", "codes only"]
)
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
def test_ids_that_a_parent_lacks_are_read_as_the_fused_model_reads_them(
    tmp_path: Path, jam_verify: Any, image: dict[str, int], dtype: torch.dtype
) -> None:
    """`<break>`, or all text: what an absent id is read as is no row of the parent's."""
    save_parent(tmp_path / "text", llama_config(TEXT_SIZE), 1, dtype)
    save_parent(tmp_path / "image", llama_config(**image, hidden_size=16), 2, dtype)
    fuse(tmp_path, every=1, image_start=TEXT_SIZE if image["vocab_size"] > CODES else None)
    for option in ("float32", "bfloat16"):
        status, printed, report = jam_verify("--dtype", option)
        assert (status, report["dtype"]) == (0, option) and report["verdict"] == "exact", printed


@FAMILIES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_parent_is_loaded_as_transformers_loads_it(tmp_path: Path, make: Any, dtype: torch.dtype) -> None:
    _, image = save_pair(tmp_path, make, tie_word_embeddings=True)
    vocabulary, rows = Vocabulary(TEXT_SIZE, CODES, 2, 3), ParentRows(TEXT_SIZE, TEXT_SIZE)
    loaded = load_parent(Parent.describe(tmp_path / "image", "image"), vocabulary, list(GRID), rows, "cpu", dtype)
    ids = torch.tensor([[2, 5, 3, 7, 13, 17]])
    with torch.no_grad():
        expected = image.to(dtype)(ids).logits
        got = loaded.logits(loaded.hidden(ids))[..., : TEXT_SIZE + CODES]
    assert got.dtype == dtype and (got - expected).abs().max() == 0
    assert loaded.tower.head.weight is loaded.tower.embedding.weight


def test_the_built_in_parents_are_kept(tmp_path: Path, jam_verify: Any) -> None:
    """With pictures through an image tokenizer, and an image parent that has control rows."""
    fuse_parents(FuseConfig(str(PARENTS / "text"), str(PARENTS / "image"), str(tmp_path / "out")))
    status, printed, report = jam_verify()
    assert (status, report["verdict"]) == (0, "exact"), printed
    assert report["image"]["tokens"] == 8 * 64 and report["image"]["parent_ppl"] < 10
    assert 1 < report["text"]["parent_ppl"] < 100


def test_a_text_parent_may_know_no_images(tmp_path: Path) -> None:
    """Its own vocabulary ends with the text and two controls that it has no rows for."""
    fuse_parents(FuseConfig(str(PARENTS / "text"), str(PARENTS / "image"), str(tmp_path / "out")))
    fused = jam.load(tmp_path / "out", device="cpu")
    parents = [jam.load(PARENTS / role, device="cpu").joint for role in ("text", "image")]
    document = Document([Text("Draw a house."), Image(codes=list(range(64)))])
    ids = fused.codec.encode(document).ids
    kept = compare_with_parents(fused.joint, parents[0], parents[1], [ids], [ids])
    assert kept.max_logit_difference == 0 and (kept.text.tokens, kept.image.tokens) == (len(ids) - 1 - 65, 64)
    assert 0 < kept.new_control_probability < 0.1 and kept.image.parent_ppl == kept.image.fused_ppl


# --- what is not as it was -----------------------------------------------------------------------------------------


@LLAMA_FIRST
@pytest.mark.parametrize("role", ["text", "image"])
def test_a_parent_changed_by_one_weight_is_refused(tmp_path: Path, jam_verify: Any, make: Any, role: str) -> None:
    save_pair(tmp_path, make)
    fuse(tmp_path)
    before = sha256_of_parent(tmp_path, role)
    name = next(name for name in load_file(tmp_path / role / WEIGHTS) if "q_proj.weight" in name)
    change(tmp_path / role, name, (0, 0), 1e-6)
    status, printed, report = jam_verify()
    assert status == 1 and not report
    after = sha256_of_parent(tmp_path, role)
    assert f"is not the {role} parent that was fused" in printed and before in printed and after in printed


@LLAMA_FIRST
@pytest.mark.parametrize("role", ["image", pytest.param("text", marks=pytest.mark.slow)])
def test_a_fused_folder_changed_by_one_weight_fails(tmp_path: Path, jam_verify: Any, make: Any, role: str) -> None:
    save_pair(tmp_path, make)
    fuse(tmp_path)
    name = next(n for n in load_file(tmp_path / "out" / WEIGHTS) if n.startswith(role) and "v_proj.weight" in n)
    change(tmp_path / "out", name, (0, 0))
    status, printed, report = jam_verify()
    other = "image" if role == "text" else "text"
    difference = report[role]["max_logit_difference"]
    assert status == 1 and report["verdict"] == "beyond tolerance" and difference > 0
    assert report[other]["max_logit_difference"] == 0 and report["changed_tensors"][other] == []
    assert report["changed_tensors"][role] == [name.removeprefix(f"{role}_tower.model.")]
    assert f"beyond tolerance 0: greatest difference of logits {difference:.3g}" in last(printed)
    status, printed, report = jam_verify("--tolerance", difference)
    assert (status, report["verdict"]) == (0, "within tolerance") and "within tolerance" in last(printed)
    assert jam_verify("--tolerance", difference / 2)[0] == 1


def test_a_row_that_no_document_reads_counts_too(tmp_path: Path, jam_verify: Any) -> None:
    save_pair(tmp_path, llama_config)
    fuse(tmp_path)
    change(tmp_path / "out", "text_tower.model.model.embed_tokens.weight", (1, 3))  # <pad>
    status, printed, report = jam_verify()
    assert (status, report["max_logit_difference"], report["verdict"]) == (1, 0.0, "beyond tolerance")
    assert "tensors that are not the parents': text: model.embed_tokens.weight" in last(printed)


@pytest.mark.parametrize("direction", ["to_text", pytest.param("to_image", marks=pytest.mark.slow)])
def test_an_exchange_that_is_no_identity_is_run_whole(tmp_path: Path, jam_verify: Any, direction: str) -> None:
    save_pair(tmp_path, llama_config)
    fuse(tmp_path, every=1)
    change(tmp_path / "out", f"{direction}.0.o_proj.weight", (0, 0))
    status, _, report = jam_verify()
    role = direction.removeprefix("to_")
    assert (status, report["way"], report["verdict"]) == (1, "whole", "beyond tolerance")
    assert report[role]["max_logit_difference"] > 0 and not any(report["changed_tensors"].values())


def test_weights_that_are_no_numbers_fail(tmp_path: Path, jam_verify: Any) -> None:
    save_pair(tmp_path, llama_config)
    fuse(tmp_path)
    change(tmp_path / "out", "text_tower.model.model.norm.weight", (0,), float("nan"))
    status, _, report = jam_verify("--tolerance", 100)
    assert status == 1 and report["text"]["max_logit_difference"] == float("inf")


# --- what does not promise exactness -------------------------------------------------------------------------------


@LLAMA_FIRST
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"method": "uniform"}, "uniform fusion averages the parents"),
        pytest.param({"method": "width"}, "width fusion mixes the parents", marks=pytest.mark.slow),
        ({"readout": "paper", "every": 1}, "the readout paper has one new head"),
    ],
    ids=["uniform", "width", "paper"],
)
def test_other_fusions_report_perplexities(
    tmp_path: Path, jam_verify: Any, make: Any, options: dict[str, Any], reason: str
) -> None:
    save_pair(tmp_path, make, **ROOM)
    fuse(tmp_path, **options)
    status, printed, report = jam_verify()
    assert status == 0 and report["verdict"] == "not promised"
    assert last(printed).startswith(f"not promised: {reason}") and "measured instead: perplexities" in last(printed)
    for role in ("text", "image"):
        assert report[role]["parent_ppl"] != report[role]["fused_ppl"] > 1
    assert report["behind_pictures"]["with_pictures"] > 1 and report["tolerance"] is None
    assert jam_verify("--tolerance", 0)[0] == 1


def test_parents_are_the_same_whatever_they_were_fused_to(tmp_path: Path, jam_verify: Any) -> None:
    """A parent's perplexities don't depend on the fusion, but for how it reads ids that it lacks."""
    save_pair(tmp_path, llama_config, **ROOM)
    fuse(tmp_path, out=str(tmp_path / "cross"))
    fuse(tmp_path, out=str(tmp_path / "average"), method="uniform")
    _, _, cross = jam_verify(out="cross")
    _, _, average = jam_verify(out="average")
    for role in ("text", "image"):
        assert cross[role]["parent_ppl"] == pytest.approx(average[role]["parent_ppl"], rel=1e-5)


def test_a_model_that_was_trained_since_is_measured(tmp_path: Path, jam_verify: Any) -> None:
    """Its folder lies elsewhere, and still knows its parents."""
    save_pair(tmp_path, llama_config)
    fuse(tmp_path)
    model = jam.load(tmp_path / "out", device="cpu")
    (trained := tmp_path / "runs" / "align").mkdir(parents=True)
    with torch.no_grad():
        model.joint.to_text[0].o_proj.weight.add_(0.01)
    model.save(trained, "aligned")
    status, printed, report = jam_verify(out="runs/align")
    assert (status, report["way"]) == (0, "whole") and "of stage aligned was trained" in last(printed)
    assert report["image"]["max_logit_difference"] == 0 < report["text"]["max_logit_difference"]


# --- documents, parents, data types --------------------------------------------------------------------------------


def test_documents_of_the_user(tmp_path: Path, jam_verify: Any) -> None:
    save_pair(tmp_path, llama_config, **ROOM)
    fuse(tmp_path)
    picture = Image(codes=[0, 1, 2, 3, 4, 5])
    write_documents(tmp_path / "texts.jsonl", [Document([Text("abc")]), Document([Text("gg")])])
    write_documents(tmp_path / "pictures.jsonl", [Document([Text("fed"), picture, Text("g")])])
    status, printed, report = jam_verify("--documents", tmp_path / "texts.jsonl")
    assert (status, report["pieces"]) == (0, 2) and (report["text"]["tokens"], report["image"]["tokens"]) == (6, 0)
    assert "note: no document has a picture: the image parent was not run on any" in printed
    assert report["image"]["parent_ppl"] is None
    _, _, report = jam_verify("--documents", tmp_path / "texts.jsonl", tmp_path / "pictures.jsonl")
    assert (report["text"]["tokens"], report["image"]["tokens"]) == (6 + 5, 6)
    assert report["behind_pictures"]["tokens"] == 2  # "g" and </s>
    write_documents(tmp_path / "long.jsonl", [Document([Text("abc" * 300), picture])])
    _, _, report = jam_verify("--documents", tmp_path / "long.jsonl")
    assert report["pieces"] > 2 and report["image"]["tokens"] == 6
    lesson = Document(messages=[Message("user", [Text("abc"), picture]), Message("assistant", [Text("ab"), picture])])
    write_documents(tmp_path / "lesson.jsonl", [lesson])
    _, _, report = jam_verify("--documents", tmp_path / "lesson.jsonl")
    assert (report["text"]["tokens"], report["image"]["tokens"]) == (2, 6)  # "ab" and </s>, as `jam eval` has it
    (tmp_path / "broken.jsonl").write_text("{")
    status, printed, _ = jam_verify("--documents", tmp_path / "broken.jsonl")
    assert status == 1 and "broken.jsonl:1: the record is not valid JSON" in printed


def test_text_behind_pictures_is_the_same_text() -> None:
    v = Vocabulary(text_size=20, image_size=6, eos_id=2, sentinels=3)
    grammar, b, code = Grammar(v, (1, 2)), v.break_id, v.image_start
    ids = [2, 5, b, code, code + 1, b, 7, 8, b, code, code, b, 9, 2]
    both = text_behind_pictures(ids, grammar)
    assert both is not None
    for sample in both:
        assert sample.targets[sample.at].tolist() == [7, 8, 9, 2]
        assert set(sample.states[sample.at].tolist()) == {State.TEXT}
    assert both[0].inputs[both[0].at].tolist() == [b, 7, b, 9]
    assert both[1].inputs.tolist() == [2, 5, 7, 8, 9] and both[1].at.tolist() == [1, 2, 3, 4]
    later = text_behind_pictures(ids, grammar, start=8)
    assert later is not None and [one.targets[one.at].tolist() for one in later] == [[9, 2], [9, 2]]
    assert text_behind_pictures(ids[:6], grammar) is None and text_behind_pictures([2, 5, 2], grammar) is None
    assert text_behind_pictures([2, 5, b, code, code, 2], grammar) is None


def test_parents_are_found_where_they_were(tmp_path: Path, jam_verify: Any) -> None:
    (home := tmp_path / "home").mkdir()
    save_pair(home, llama_config)
    fuse(home)
    assert str(tmp_path) not in (home / "out" / "manifest.json").read_text()
    assert [one["source"] for one in Manifest.load(home / "out").ancestors] == [
        str((home / role).resolve()) for role in ("text", "image")
    ]
    home.rename(tmp_path / "moved")
    assert jam_verify(out="moved/out")[0] == 0
    shutil.move(tmp_path / "moved" / "text", tmp_path / "llm")
    status, printed, _ = jam_verify(out="moved/out")
    assert status == 1 and "the text parent text is not found" in printed and "name its folder with --text" in printed
    assert jam_verify("--text", tmp_path / "llm", out="moved/out")[0] == 0
    status, printed, _ = jam_verify("--text", tmp_path / "moved" / "image", out="moved/out")
    assert status == 1 and "is not the text parent that was fused" in printed


def test_folders_that_were_not_fused(tmp_path: Path, jam_verify: Any) -> None:
    save_pair(tmp_path, llama_config)
    fuse(tmp_path, method="uniform")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text()) | {"checksum": None}
    for one in manifest["ancestors"]:
        del one["rows"]
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest))
    status, printed, _ = jam_verify()
    assert status == 1 and "does not say the rows of the parents" in printed
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest | {"ancestors": []}))
    status, printed, _ = jam_verify()
    assert status == 1 and "its manifest names no text parent" in printed


def test_rounding_to_another_data_type_is_told(tmp_path: Path, jam_verify: Any) -> None:
    save_pair(tmp_path, llama_config)
    fuse(tmp_path, dtype="bfloat16")
    status, printed, report = jam_verify()
    assert status == 1 and 0 < report["max_logit_difference"] < 1 and not any(report["changed_tensors"].values())
    assert "is stored in float32, the fused model in bfloat16" in printed
    status, printed, report = jam_verify("--dtype", "bfloat16")
    assert (status, report["verdict"], report["notes"]) == (0, "exact", [])


# --- memory --------------------------------------------------------------------------------------------------------


def limited(monkeypatch: Any, count: float) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda device: int(count))


def test_a_model_that_does_not_fit_is_not_loaded(tmp_path: Path, monkeypatch: Any) -> None:
    save_pair(tmp_path, llama_config)
    plan = fuse(tmp_path)
    limited(monkeypatch, 0.75 * plan.bytes)
    with pytest.raises(
        ValueError, match=r"out needs .* GiB in float32, .* GiB available on cpu; --dtype bfloat16 needs"
    ):
        jam.load(tmp_path / "out", device="cpu")
    jam.load(tmp_path / "out", device="cpu", dtype="bfloat16")
    limited(monkeypatch, 0.1 * plan.bytes)
    with pytest.raises(ValueError, match=r"bfloat16 still needs .* GiB: choose a --device with more memory"):
        jam.load(tmp_path / "out", device="cpu")
    with pytest.raises(ValueError, match=r"in bfloat16, .* choose a --device with more memory, or make room"):
        jam.load(tmp_path / "out", device="cpu", dtype="bfloat16")


def test_verifying_takes_the_memory_of_one_parent(tmp_path: Path, jam_verify: Any, monkeypatch: Any) -> None:
    save_pair(tmp_path, opt_config, num_hidden_layers=4)
    plan = fuse(tmp_path, every=1)
    limited(monkeypatch, 0.5 * plan.bytes)
    assert jam_verify()[0] == 0
    change(tmp_path / "out", "to_text.0.o_proj.weight", (0, 0))
    status, printed, _ = jam_verify()
    assert status == 1 and "out needs" in printed and "--dtype bfloat16 needs" in printed
    limited(monkeypatch, 100)
    status, printed, _ = jam_verify()
    assert status == 1 and "verifying" in printed and "GiB available on cpu" in printed


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: Any) -> None:
    """What files take of it gives way."""
    monkeypatch.setattr(memory, "CONTAINERS", ((str(tmp_path), "memory.max", "memory.current", ""),))
    free = memory.available_memory("cpu")
    (tmp_path / "memory.max").write_text("max\n")
    assert free is not None and memory.available_memory("cpu") > 5000
    (tmp_path / "memory.max").write_text("10000\n")
    (tmp_path / "memory.current").write_text("9000\n")
    (tmp_path / "memory.stat").write_text("anon 5000\nactive_file 1000\ninactive_file 3000\n")
    assert memory.available_memory("cpu") == 5000
    assert memory.available_memory("meta") is None


def test_nothing_to_measure(tmp_path: Path) -> None:
    save_pair(tmp_path, llama_config)
    fuse(tmp_path)
    with pytest.raises(ValueError, match="there is nothing to measure"):
        verify(tmp_path / "out", [], Grammar(Vocabulary(TEXT_SIZE, CODES, 2, 3), (2, 3)), lambda dtype: None)  # type: ignore
