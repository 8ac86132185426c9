"""What the tokens of one tokenizer are in another, and which tokenizers are the same (docs/unequal-parents.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import LlamaConfig, Qwen2Config

from jam.fusion import Parent
from jam.fusion.pieces import Meanings
from jam.fusion.tokenizers import TextTokens, difference
from support.unlike_tokenizers import LETTER_OF, SPACE, Reading, added, as_parent, byte_level, sentencepiece, unigram

G = LETTER_OF[32]  # a space in byte-level tokens
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "Isolated", "invert": False}


def test_byte_level_tokens_in_sentencepiece() -> None:
    read = Reading(byte_level(), sentencepiece())
    assert read[f"{G}the"] == [f"{SPACE}the"] and read["the"] == ["the"] and read[G] == [SPACE]
    assert read["A"] == ["A"]  # not <0x41>, which stands for the same byte
    assert read[LETTER_OF[10]] == ["<0x0A>"] and read[LETTER_OF[0xC3]] == ["<0xC3>"]
    assert read[LETTER_OF[0xF0] + LETTER_OF[0x9F]] == ["<0xF0>", "<0x9F>"]  # half an emoji
    assert read["</s>"] == ["</s>"] and read["<s>"] == ["<s>"]
    assert read.pieces.counts() == {"exact": len(read.text) - 1, "by_pieces": 1, "not_at_all": 0}


def test_sentencepiece_tokens_in_byte_level() -> None:
    read = Reading(sentencepiece(), byte_level())
    assert read[f"{SPACE}house"] == [f"{G}house"] and read[SPACE * 2] == [G, G]
    assert read["é"] == [LETTER_OF[0xC3], LETTER_OF[0xA9]]
    assert read["<0xF0>"] == [LETTER_OF[0xF0]] and read["<0x41>"] == ["A"]
    assert read["<unk>"] == [] and read["</s>"] == ["</s>"]
    assert read.pieces.counts() == {"exact": len(read.text) - 3, "by_pieces": 2, "not_at_all": 1}


@pytest.mark.parametrize("prefix", ["normalizer", "always", "first"])
def test_no_space_is_put_in_front_of_a_piece(prefix: str) -> None:
    """However the image parent's tokenizer puts one in front of a text."""
    words = ("he", "re", "the", "red")  # fewer than the LLM has
    read = Reading(byte_level(), sentencepiece(words, prefix))
    assert read["house"] == ["h", "o", "u", "s", "e"]
    assert read[f"{G}house"] == [SPACE, "h", "o", "u", "s", "e"]
    read = Reading(sentencepiece(), byte_level(words, prefix=True))
    assert read["house"] == ["h", "o", "u", "s", "e"] and read[f"{SPACE}draw"] == [G, *"draw"]


def test_tokens_in_a_unigram() -> None:
    """Unknown letters stand for nothing; what its normalizer changes is cut, and no token of the same string."""
    read = Reading(added(byte_level(), "ﬁt", "thé", "the雨", "fit"), unigram())
    assert read[f"{G}draw"] == [f"{SPACE}draw"] and read["house"] == ["house"]
    assert read["ﬁt"] == ["f", "i", "t"] == read["fit"]
    assert read["thé"] == [] and read["the雨"] == []
    assert read[LETTER_OF[0xC3]] == [] and read[LETTER_OF[10]] == []  # it has no bytes
    assert read.pieces.absent == 2 + 1 + 256 - 94 - 1  # two words, half an emoji, bytes that are no letters of its


def test_unigram_tokens() -> None:
    read = Reading(unigram(), byte_level(("t", "th", "the")))
    assert read[f"{SPACE}the"] == [f"{G}the"] and read[f"{SPACE}red"] == [G, "r", "e", "d"]
    read = Reading(unigram(), sentencepiece(byte_fallback=False))
    assert read.pieces.counts() == {"exact": len(read.text) - 1, "by_pieces": 0, "not_at_all": 1}  # <unk>


def test_letters_that_a_bpe_leaves_out_are_unknown() -> None:
    """A BPE without a token for what it does not know gives pieces of the rest of a string."""
    read = Reading(added(byte_level(), "the雨"), sentencepiece(byte_fallback=False))
    assert read["the雨"] == []
    silent = sentencepiece(byte_fallback=False)
    spec = json.loads(silent.backend_tokenizer.to_str())
    spec["model"]["unk_token"] = None
    silent = type(silent)(tokenizer_object=type(silent.backend_tokenizer).from_str(json.dumps(spec)), eos_token="</s>")
    assert silent("the雨").input_ids and Reading(added(byte_level(), "the雨"), silent)["the雨"] == []


def test_special_and_added_tokens() -> None:
    """Roles decide about special tokens; other special ones stand for nothing, and added ones for their letters."""
    ours = {"eos_token": "<|end|>", "bos_token": "<|begin|>", "pad_token": "<|pad|>"}
    text = added(added(byte_level(special=ours), "<|im_start|>", special=True), "<tool>", "IMGIMGAZ")
    image = added(sentencepiece(), "<|im_start|>", special=True)
    read = Reading(text, added(image, "IMGIMGBZ"))
    assert read["<|end|>"] == ["</s>"] and read["<|begin|>"] == ["<s>"]
    assert read["<|pad|>"] == [] and read["<|im_start|>"] == [] and read["IMGIMGAZ"] == []
    assert read["<tool>"] == list("<tool>")
    read = Reading(added(text, "aIMGIMGBZ"), image)
    assert read["aIMGIMGBZ"] == []  # it would be cut into an image code's name


def test_a_token_of_several_roles_is_the_end_first() -> None:
    text = byte_level(special={"eos_token": "<|end|>", "pad_token": "<|end|>"})
    image = sentencepiece(special={"eos_token": "</s>", "pad_token": "<pad>"})
    assert Reading(text, image)["<|end|>"] == ["</s>"]
    assert Reading(image, text)["<pad>"] == ["<|end|>"] == Reading(image, text)["</s>"]


def test_tokenizers_whose_tokens_are_no_bytes() -> None:
    tokenizer = byte_level()
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    spec["model"]["end_of_word_suffix"] = "</w>"
    marked = type(tokenizer)(
        tokenizer_object=type(tokenizer.backend_tokenizer).from_str(json.dumps(spec)), eos_token="</s>"
    )
    with pytest.raises(
        ValueError, match=r"image parent image is a BPE that marks words by '</w>'; parents with unlike"
    ):
        Reading(tokenizer, marked)


# --- the same tokenizer --------------------------------------------------------------------------------------------


def tokens(tokenizer: Any) -> TextTokens:
    return TextTokens.of_pipeline(tokenizer.backend_tokenizer)


def test_added_tokens_behind_the_others_do_not_count() -> None:
    plain = tokens(byte_level())
    assert difference(plain, tokens(added(byte_level(), "<image>", "<row>", special=True))) is None
    assert difference(tokens(added(byte_level(), "<image>")), plain) is None
    both = tokens(added(byte_level(), "<image>")), tokens(added(byte_level(), "<picture>", "<row>"))
    assert "'<image>': text 286, image None; '<picture>': text None, image 286" in str(difference(*both))
    words = ("t", "th", "the", "he")
    assert "first differences" in str(difference(tokens(byte_level(words[:3])), tokens(byte_level(words))))


def test_the_files_are_compared_not_the_classes(tmp_path: Path) -> None:
    """`AutoTokenizer` takes the class of the config's model_type, which may rebuild the pipeline."""
    tokenizer = byte_level()
    for role, config in (
        ("text", Qwen2Config(vocab_size=300)),
        ("image", LlamaConfig(vocab_size=320)),
    ):
        config.save_pretrained(tmp_path / role)
        tokenizer.save_pretrained(tmp_path / role)
        path = tmp_path / role / "tokenizer_config.json"
        values = json.loads(path.read_text())
        values["tokenizer_class"] = "Qwen2Tokenizer" if role == "text" else "LlamaTokenizer"
        path.write_text(json.dumps(values))
    text, image = (Parent.describe(tmp_path / role, role) for role in ("text", "image"))
    assert type(text.tokenizer) is not type(image.tokenizer)
    assert difference(text.text_tokens, image.text_tokens) is None


@pytest.mark.parametrize(
    ("change", "keeps"),
    [
        ({}, True),
        ({"normalizer": {"type": "Lowercase"}}, False),
        ({"pre_tokenizer": {"type": "Whitespace"}}, False),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, BYTES]}}, False),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [SPLIT | {"behavior": "Removed"}, BYTES]}}, False),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [SPLIT, BYTES]}}, True),
    ],
)
def test_places_in_a_string_are_looked_at_where_letters_can_be_lost(change: dict[str, Any], keeps: bool) -> None:
    """And pieces are the same with and without them."""
    tokenizer = byte_level()
    spec = json.loads(tokenizer.backend_tokenizer.to_str()) | change
    meanings = Meanings(as_parent(tokenizer, "image"))
    changed = Meanings(as_parent(rebuilt(tokenizer, spec), "image"))
    assert meanings._keeps_all and changed._keeps_all is keeps
    strings = ["house", "the house", "é雨", "a  b", "</s>"]
    cut = changed.cut(strings)
    changed.__dict__["_keeps_all"] = False
    assert changed.cut(strings) == cut
    if not keeps and "pre_tokenizer" in change:
        assert cut[1] == []  # its space is lost


def test_a_byte_level_tokenizer_that_lacks_a_byte() -> None:
    tokenizer = byte_level()
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    del spec["model"]["vocab"][LETTER_OF[0xC3]]
    meanings = Meanings(as_parent(rebuilt(tokenizer, spec), "image"))
    assert not meanings._keeps_all and meanings.cut(["a"]) == [[spec["model"]["vocab"]["a"]]]


def rebuilt(tokenizer: Any, spec: dict[str, Any]) -> Any:
    return type(tokenizer)(tokenizer_object=Tokenizer.from_str(json.dumps(spec)), eos_token="</s>")
