"""Pairs whose image codes lie among the text ids (Chameleon, Emu3), or behind them with padding (Liquid, SimpleAR)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen2Config, Qwen2ForCausalLM

import jam
from jam.api.model import Model
from jam.codec import Codec, describe_image_tokenizer
from jam.documents import Document, Image, Text
from jam.fusion import fuse
from jam.grammar import Grammar, State
from jam.models import CrossForCausalLM, SingleDecoder
from jam.vocabulary import ParentRows, Vocabulary, ranges
from support.families import SIZES, decoder_tensors, randomised, text_logits
from support.fusion_parents import settings
from support.image_map_pairs import (
    BASE,
    CODES,
    LETTERS,
    NAMES,
    codes_of,
    entries,
    network,
    rows_of_codes,
    run,
    save_pair,
    tokenizer,
)
from support.writing import begin_pictures


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def assert_exact(model: Model, family: str, text: Any, image: Any) -> None:
    """Difference 0 on letters and codes, and no way to write a code's name as text."""
    fused, v = model.joint, model.joint.vocabulary
    rows = torch.tensor(rows_of_codes(family)[: v.image_size])
    letters = torch.tensor([row for name, row in entries(family).items() if len(name) == 1 or name in BASE])
    ids = letters[torch.randint(len(letters), (1, 12))]
    ids[0, 0] = v.eos_id
    with torch.no_grad():
        got = fused.logits(fused.hidden(ids), torch.full(ids.shape, State.TEXT))
        wanted = text_logits(text, ids)
        assert (got[..., letters] - wanted[..., letters]).abs().max() == 0
        if family in NAMES:  # which the parent would rather write
            assert wanted.argmax(-1).unique().apply_(lambda row: row in rows).any()
            assert (got[..., rows] == -torch.inf).all()
        codes = torch.randint(v.image_size, (1, 9))
        got = fused.logits(
            fused.hidden(torch.cat([ids[:, :3], v.image_start + codes], 1)), torch.full((1, 12), State.IMAGE)
        )
        wanted = text_logits(image, torch.cat([ids[:, :3], rows[codes]], 1))
        assert (got[..., v.image_start : v.control_start] - wanted[..., rows]).abs().max() == 0


@pytest.mark.parametrize("family", ["chameleon", "emu3", "qwen2"])
def test_pair_is_exact_and_draws(family: str, tmp_path: Path) -> None:
    text, image = save_pair(family, tmp_path)
    run(tmp_path, every=1)
    model = jam.load(tmp_path / "out", device="cpu")
    assert isinstance(model.joint, CrossForCausalLM)
    rows, v = model.joint.config.image_rows, model.joint.vocabulary
    assert v.text_size == len(entries(family)) and v.image_size == codes_of(family)
    assert v.text_image_ids == (ranges(rows_of_codes(family)) if family in NAMES else ())
    expected = rows_of_codes(family)
    assert rows["image_rows"] == (expected if family == "emu3" else None)
    assert rows["image_start"] == (None if family == "emu3" else expected[0])
    texts = model.joint.config.text_rows
    assert (texts["image_start"], texts["image_rows"]) == (
        (rows["image_start"], rows["image_rows"]) if family in NAMES else (None, None)
    )
    assert_exact(model, family, text, image)

    (tmp_path / "again").mkdir()
    model.save(tmp_path / "again", stage="aligned")
    model = jam.load(tmp_path / "again", device="cpu")
    assert model.joint.vocabulary == v
    assert_exact(model, family, text, image)

    begin_pictures(model)
    page = model.generate(Document(content=[Text("draw a cat ")]), max_new_tokens=40, max_images=1, seed=3)
    assert page.extra["images"] == 1
    drawn = next(part for part in page.content if isinstance(part, Image))
    info = describe_image_tokenizer(tmp_path / "image" / "image_tokenizer")
    assert drawn.codes is not None and len(drawn.codes) == info.grid[0] * info.grid[1]
    assert drawn.load().size == (info.resolution,) * 2
    written = "".join(part.text for part in page.content if isinstance(part, Text))
    assert written.startswith("draw a cat") and not any(name in written for name in entries(family) if len(name) > 7)
    # What was drawn is read back as the same codes.
    again = model.codec.decode(model.codec.encode(Document(content=[Text("a"), Image(codes=drawn.codes)])).ids)
    assert isinstance(again.content[1], Image) and again.content[1].codes == drawn.codes


def test_training_computes_the_same_logits(tmp_path: Path) -> None:
    """Selected rows of the head, and gradients for them alone."""
    save_pair("emu3", tmp_path)
    run(tmp_path)
    joint = jam.load(tmp_path / "out", device="cpu").joint
    assert isinstance(joint, CrossForCausalLM)
    v = joint.vocabulary
    ids = torch.tensor([[v.eos_id, 30, v.break_id, *range(v.image_start, v.image_start + 6)]])
    states = torch.tensor([[State.TEXT] * 3 + [State.IMAGE] * 6])
    with torch.no_grad():
        expected = joint.logits(joint.hidden(ids), states)
    logits = joint.logits(joint.hidden(ids), states)
    torch.testing.assert_close(logits, expected)
    logits[logits.isfinite()].square().sum().backward()
    gradient = joint.text_tower.head.weight.grad
    assert gradient is not None and gradient[30].abs().max() > 0
    assert gradient[rows_of_codes("emu3")].abs().max() == 0


def test_uniform_averages_the_codes_of_both(tmp_path: Path) -> None:
    """Where the parents have them: no row is added but for controls."""
    text, image = save_pair("emu3", tmp_path, tied=False)
    run(tmp_path, method="uniform")
    name = "model.embed_tokens.weight"
    table = load_file(tmp_path / "out" / "model.safetensors")[name.replace("model.", "model.text_model.")]
    model = jam.load(tmp_path / "out", device="cpu")
    v, joint, rows = model.joint.vocabulary, model.joint, rows_of_codes("emu3")
    assert isinstance(joint, SingleDecoder)
    assert joint.joint_rows.rows == ParentRows(v.text_size, None, v.text_size, v.control_size, rows)
    assert len(table) == v.text_size + v.control_size
    both = [decoder_tensors(parent)[name][rows] for parent in (text, image)]
    torch.testing.assert_close(table[rows], (both[0] + both[1]) / 2)
    with torch.no_grad():
        logits = joint.logits(joint.hidden(torch.tensor([[v.eos_id, 30]])))[0]
    assert (logits[:, rows] == -torch.inf).all() and logits[:, 30].isfinite().all()


def test_a_single_stream_with_a_map() -> None:
    parent = randomised(network("emu3", "image"))
    rows, vocabulary = rows_of_codes("emu3"), Vocabulary(66, CODES, 2, 4, ranges(rows_of_codes("emu3")))
    decoder = randomised(
        Qwen2ForCausalLM(Qwen2Config(**SIZES | {"vocab_size": parent.config.get_text_config().vocab_size}))
    )
    stream = SingleDecoder(decoder, vocabulary, (4, 4), ParentRows.of_codes(66, rows)).eval()
    ids = torch.tensor([[2, 30, vocabulary.image_start + 3, vocabulary.image_start + 5]])
    with torch.no_grad():
        got = stream.logits(stream.hidden(ids))[..., vocabulary.image_start : vocabulary.control_start]
        assert torch.equal(got, decoder(torch.tensor([[2, 30, rows[3], rows[5]]])).logits[..., rows])


# The text codec


def codec(special: bool) -> Codec:
    vocabulary = Vocabulary(66, CODES, 2, 4, ranges(rows_of_codes("chameleon")))
    return Codec(vocabulary, Grammar(vocabulary, (2, 2)), tokenizer(entries("chameleon"), special))


def test_a_name_in_a_text_is_text() -> None:
    made, text = codec(special=True), "see IMGIMGBAZ here"
    ids = made.encode(Document(content=[Text(text)])).ids
    assert len(ids) == len(text) + 2 and all(made.vocabulary.is_text(token) for token in ids[1:-1])
    assert made.decode(ids).content == [Text(text)]


def test_a_name_that_the_tokenizer_insists_on_is_refused() -> None:
    with pytest.raises(ValueError, match=r"reads 'IMGIMGBAZ', its name of an image code, out of the text 'see"):
        codec(special=False).encode(Document(content=[Text("see IMGIMGBAZ here")]))


def test_ids_of_names_are_no_documents() -> None:
    with pytest.raises(ValueError, match=r"position 1: <image name:7> may not come in state TEXT"):
        codec(special=True).decode([2, 7, 2])


# The vocabulary


def test_vocabularies_without_names_are_as_before() -> None:
    old = {"text_size": 10, "image_size": 6, "eos_id": 2, "sentinels": 3}
    plain, named = Vocabulary.from_dict(old), Vocabulary(10, 6, 2, 3, ((3, 5), (8, 10)))
    assert plain.to_dict() == old and plain.hash != named.hash
    assert Vocabulary.from_dict(json.loads(json.dumps(named.to_dict()))) == named
    assert [token for token in range(10) if named.is_text(token)] == [0, 1, 5, 6, 7]
    allowed = Grammar(named, (2, 2)).allowed()
    assert not allowed[:, [3, 4, 8, 9]].any() and allowed[State.TEXT, [0, 1, 5, 6, 7]].all()


def test_rows_follow_the_map() -> None:
    vocabulary = Vocabulary(10, 4, 2, 3, ((3, 7),))
    rows = ParentRows.of_codes(10, [5, 3, 4, 6])
    assert rows.row_of(vocabulary) == [0, 1, 2, -1, -1, -1, -1, 7, 8, 9, 5, 3, 4, 6, *[-1] * 5]
    assert ParentRows.of_codes(10, [3, 4, 5, 6]) == ParentRows(10, image_start=3)
    assert ParentRows(10).row_of(vocabulary)[3:7] == [-1] * 4
    with pytest.raises(ValueError, match="used twice"):
        ParentRows.of_codes(10, [5, 3, 4, 8]).row_of(vocabulary)
    with pytest.raises(ValueError, match="are 3 rows, the least 3; the joint vocabulary has 4 image codes"):
        ParentRows.of_codes(10, [5, 3, 4]).row_of(vocabulary)


@pytest.mark.parametrize("ids", [((3, 11),), ((5, 4),), ((4, 6), (3, 4))])
def test_impossible_ranges_are_refused(ids: Any) -> None:
    with pytest.raises(ValueError, match="no ranges in order among the text ids"):
        Vocabulary(10, 6, 2, 3, ids)


def test_the_end_of_text_is_no_image() -> None:
    with pytest.raises(ValueError, match="eos_id 2 is the name of an image code"):
        Vocabulary(10, 6, 2, 3, ((1, 3),))


# Errors


def test_names_that_are_no_bijection(tmp_path: Path) -> None:
    save_pair("chameleon", tmp_path)
    with pytest.raises(ValueError, match=r"not one-to-one: image code 16 has no token; 16 of 20 codes have one"):
        fuse(settings(tmp_path), (20, (4, 4)))
    with pytest.raises(
        ValueError, match=r"not one-to-one: token 'IMGIMGBCZ' is image code 12, the image tokenizer has 12"
    ):
        fuse(settings(tmp_path), (12, (4, 4)))
    with pytest.raises(ValueError, match="--image-start 4 is among the 66 text ids"):
        run(tmp_path, image_start=4)


def test_parents_must_name_the_same_rows(tmp_path: Path) -> None:
    """Names in the image parent's config alone: the text parent's tokenizer has letters there."""
    save_pair("emu3", tmp_path)
    shutil.rmtree(tmp_path / "image" / "tokenizer")
    letters = [*BASE, *LETTERS, *(f"{letter}." for letter in LETTERS[:CODES])]
    tokenizer({name: row for row, name in enumerate(letters)}).save_pretrained(tmp_path / "text" / "tokenizer")
    path = tmp_path / "text" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"vocabulary_map": {"<image>": 3}}))
    with pytest.raises(ValueError, match=r"row 4 is text by the names of the text .* and image code \d+ by those of"):
        run(tmp_path)


def test_a_plan_counts_the_names(tmp_path: Path) -> None:
    for role in ("text", "image"):
        network("emu3", role).config.save_pretrained(tmp_path / role)
    plan = fuse(settings(tmp_path, plan=True), None)
    assert plan.vocabulary.image_size == CODES and plan.config.image_rows["image_rows"] == rows_of_codes("emu3")
