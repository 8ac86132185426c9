"""Parents whose tokenizers differ, and parents of different sizes (docs/unequal-parents.md)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen2ForCausalLM

from jam.documents import Document, Image, Text, write_documents
from jam.fusion import fuse
from jam.models import CrossForCausalLM
from support import tiny
from support.fusion_parents import opened, settings
from support.unlike_pairs import SENTENCE, SMALL, assert_proved_and_writing, run, save, save_pair, verified
from support.unlike_tokenizers import KINDS, LETTER_OF, Reading, added, byte_level, sentencepiece, unigram

G = LETTER_OF[32]  # a space in byte-level tokens
# 24 layers of 896 beside 12 of 512, a sixteenth as wide.
LONG = SMALL | {"hidden_size": 56, "num_hidden_layers": 24, "num_attention_heads": 14, "max_position_embeddings": 128}
SHORT = SMALL | {"num_hidden_layers": 12, "num_attention_heads": 8, "num_key_value_heads": 8}


@pytest.mark.parametrize(("text", "image"), [("byte-level", "unigram"), ("unigram", "sentencepiece")])
def test_tokenizers_of_different_kinds(text: str, image: str, tmp_path: Path) -> None:
    """The other pairs of kinds are in test_unlike_families.py."""
    save_pair(tmp_path, KINDS[text], KINDS[image])
    plan = run(tmp_path)
    assert any("tokenizers differ" in note for note in plan.notes)
    assert_proved_and_writing(tmp_path)


def test_24_layers_of_56_beside_12_of_32(tmp_path: Path) -> None:
    """With unlike classes, heads, contexts and tokenizers."""
    torch.manual_seed(0)
    save(tmp_path / "text", byte_level(), make=Qwen2ForCausalLM, vocab_size=300, **LONG)
    save(tmp_path / "image", sentencepiece(), tiny.CODES, **SHORT)
    plan = run(tmp_path, every=2)
    assert plan.config.exchanges == [0, 2, 4, 6, 8, 10] and plan.config.max_position_embeddings == 96
    assert (
        "the context is the image parent's, 96 tokens; the text parent has 128 (--context interpolates positions)"
        in (plan.notes)
    )
    assert_proved_and_writing(tmp_path)


@pytest.mark.slow
def test_24_layers_of_896_beside_12_of_512(tmp_path: Path) -> None:
    torch.manual_seed(0)
    wide = {"hidden_size": 896, "intermediate_size": 1200, "num_key_value_heads": 2}
    save(tmp_path / "text", byte_level(), make=Qwen2ForCausalLM, vocab_size=300, **LONG | wide)
    save(tmp_path / "image", sentencepiece(), tiny.CODES, **SHORT | {"hidden_size": 512, "intermediate_size": 700})
    run(tmp_path, every=4)
    assert_proved_and_writing(tmp_path)


def test_rows_are_means_of_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks of a few rows, resident tables or not."""
    monkeypatch.setattr("jam.fusion.blocks.BLOCK", 70)  # two rows of 32 numbers
    _, image = save_pair(tmp_path)
    plan = run(tmp_path)
    table = image.get_input_embeddings().weight.detach()
    read = Reading(byte_level(), sentencepiece())
    made = load_file(tmp_path / "out" / "model.safetensors")["image_tower.text_input"]
    assert made.shape == (len(read.text), 32)
    for name in (f"{G}the", "house", LETTER_OF[0xF0] + LETTER_OF[0x9F]):
        rows = table[read.image.convert_tokens_to_ids(read[name])]
        torch.testing.assert_close(made[read.text.convert_tokens_to_ids(name)], rows.mean(0))
        assert len(rows) > 1 or torch.equal(made[read.text.convert_tokens_to_ids(name)], rows[0])
    assert plan.text_tokens == read.pieces.counts()
    codes = range(len(read.image), len(read.image) + tiny.CODES)
    used = sorted({*read.pieces.rows.tolist(), *codes})
    absent = load_file(tmp_path / "out" / "model.safetensors")["image_tower.absent_input"]
    torch.testing.assert_close(absent, table[used].mean(0).expand_as(absent))
    assert len(absent) == 1 + plan.vocabulary.control_size  # </s> has the image parent's own row


def test_tokens_without_pieces_begin_at_the_mean_row(tmp_path: Path) -> None:
    save_pair(tmp_path, byte_level, unigram)
    plan = run(tmp_path)
    stored = load_file(tmp_path / "out" / "model.safetensors")
    row = byte_level().convert_tokens_to_ids(LETTER_OF[0xC3])
    assert torch.equal(stored["image_tower.text_input"][row], stored["image_tower.absent_input"][0])
    assert plan.text_tokens is not None and plan.text_tokens["not_at_all"] > 100


def test_save_and_load(tmp_path: Path) -> None:
    save_pair(tmp_path)
    run(tmp_path)
    model = opened(tmp_path / "out")
    assert isinstance(model, CrossForCausalLM)
    model.save_pretrained(tmp_path / "again")
    again = opened(tmp_path / "again")
    ids = torch.tensor(
        [[model.vocabulary.eos_id, 20, 260, 270, model.vocabulary.break_id, model.vocabulary.image_start]]
    )
    with torch.no_grad():
        assert torch.equal(model.hidden(ids), again.hidden(ids))
    fresh = CrossForCausalLM(model.config)
    tower = fresh.image_tower
    torch.testing.assert_close(tower.text_input[3], tower.embedding.weight.mean(0))


def test_training_reaches_made_rows(tmp_path: Path) -> None:
    save_pair(tmp_path)
    run(tmp_path)
    model = opened(tmp_path / "out")
    v = model.vocabulary
    ids = torch.tensor([[*v.begin_ids, 20, 260, v.break_id, v.image_start, v.image_start + 1]])
    logits = model(ids).logits
    logits[logits.isfinite()].square().sum().backward()
    grown = model.image_tower.text_input.grad.abs().sum(1).nonzero().flatten().tolist()
    assert grown == [20, 260]  # </s> is read through the parent's own row


@pytest.mark.parametrize("method", ["uniform", "width"])
def test_one_row_for_both_needs_one_tokenizer(tmp_path: Path, method: str) -> None:
    save_pair(tmp_path)
    with pytest.raises(
        ValueError, match=rf"tokenizers differ: text has .*; {method} fusion needs one tokenizer.*cross"
    ):
        run(tmp_path, method=method)


def test_readout_paper_reads_the_text_parents_rows(tmp_path: Path) -> None:
    text, image = save_pair(tmp_path)
    plan = run(tmp_path, readout="paper")
    assert plan.text_tokens is None and any("the readout paper has one embedding" in note for note in plan.notes)
    table = load_file(tmp_path / "out" / "model.safetensors")["embed_tokens.weight"]
    v, start = plan.vocabulary, len(sentencepiece())
    assert torch.equal(table[: v.text_size], text.get_input_embeddings().weight)
    codes = image.get_input_embeddings().weight[start : start + tiny.CODES]
    assert torch.equal(table[v.image_start : v.control_start], codes)


def test_plan_says_how_many_tokens(tmp_path: Path) -> None:
    save_pair(tmp_path)
    printed = run(tmp_path, plan=True, out=None).to_json()
    assert printed["text_tokens"] == {"exact": 285, "by_pieces": 1, "not_at_all": 0}
    assert "285 tokens are one token there too, 1 are the mean of their pieces, 0 have none" in printed["notes"][-1]
    made = next(tensor for tensor in printed["tensors"] if tensor["name"] == "image_tower.text_input")
    assert made["from"] == ["image:model.embed_tokens.weight"] and "mean of the rows" in made["operation"]


# --- where the codes are -------------------------------------------------------------------------------------------


def test_codes_of_a_padded_table(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save(tmp_path / "text", byte_level())
    own = len(sentencepiece())
    save(tmp_path / "image", sentencepiece(), tiny.CODES, vocab_size=own + tiny.CODES + 7)
    for start in (own, own + 3, own + 7):
        plan = run(tmp_path, plan=True, out=None, image_start=start)
        assert plan.config.image_rows["image_start"] == start
    with pytest.raises(ValueError, match=r"not within the \d+ rows"):
        run(tmp_path, image_start=own + 8)


def test_codes_among_the_tokenizers_ids(tmp_path: Path) -> None:
    """Named as image codes, or by names that say nothing."""
    torch.manual_seed(0)
    save(tmp_path / "text", byte_level())
    names = [f"<|visual token {code:06d}|>" for code in range(tiny.CODES)]
    save(tmp_path / "image", added(sentencepiece(), *names, special=True), tiny.CODES, vocab_size=480)
    plan = run(tmp_path)
    assert plan.config.image_rows["image_start"] == len(sentencepiece())
    assert_proved_and_writing(tmp_path)
    other = [f"<code {code}>" for code in range(tiny.CODES)]
    tokenizer = added(sentencepiece(), *other, special=True)
    save(tmp_path / "other", tokenizer, tiny.CODES, vocab_size=len(tokenizer))
    with pytest.raises(ValueError, match=r"rows \d+ are text, .* begin among these, at row \d+; .*--image-start"):
        run(tmp_path, image=str(tmp_path / "other"), out=str(tmp_path / "again"))
    told = run(tmp_path, plan=True, image=str(tmp_path / "other"), image_start=len(sentencepiece()))
    assert told.config.image_rows["image_start"] == len(sentencepiece())


def test_added_tokens_that_one_parent_has(tmp_path: Path) -> None:
    """SimpleAR and Liquid add control tokens and then codes; an LLM's later release may have tokens of its own."""
    torch.manual_seed(0)
    more = added(byte_level(), "<image>", "<row>", special=True)
    save(tmp_path / "text", byte_level())
    save(tmp_path / "image", more, tiny.CODES)
    plan = run(tmp_path)
    rows = plan.config.image_rows
    assert (rows["text_size"], rows["image_start"], rows["made_text"]) == (len(byte_level()), len(more), False)
    assert_proved_and_writing(tmp_path)


def test_added_tokens_of_the_text_parent(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save(tmp_path / "text", added(byte_level(), "<tool>", "<call>"))
    save(tmp_path / "image", byte_level(), tiny.CODES)
    plan = run(tmp_path)
    rows = plan.config.image_rows
    assert (rows["text_size"], rows["image_start"]) == (len(byte_level()),) * 2
    assert any("2 added tokens that the image parent's lacks" in note for note in plan.notes)
    assert_proved_and_writing(tmp_path)
    run(tmp_path, method="uniform", out=str(tmp_path / "average"))


def test_built_in_image_parent_beside_another_llm(tmp_path: Path) -> None:
    """A parent with a manifest, which knows the text of another tokenizer."""
    from jam.tutorials import PARENTS

    torch.manual_seed(0)
    save(tmp_path / "text", sentencepiece(), max_position_embeddings=512)
    plan = fuse(settings(tmp_path, image=str(PARENTS / "image"), sentinels=None), (512, (8, 8)))
    assert plan.vocabulary.text_size == len(sentencepiece()) and plan.vocabulary.eos_id == 2 - 1
    rows = plan.config.image_rows
    assert rows["made_text"] and rows["control_start"] is not None
    document = Document([Text(SENTENCE), Image(codes=list(range(64)))])
    write_documents(tmp_path / "page.jsonl", [document])
    status, report = verified(tmp_path, "--documents", str(tmp_path / "page.jsonl"))
    assert (status, report["verdict"], report["image"]["tokens"]) == (0, "exact", 64)
