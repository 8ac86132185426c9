"""Tokenizers read without `transformers` (`jam.fusion.file_tokenizer`), held against its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import processors
from transformers import AutoTokenizer, LlamaConfig

from jam.codec import load_tokenizer
from jam.fusion.file_tokenizer import FileTokenizer
from jam.fusion.tokenizers import find_tokenizer
from support import tiny
from support.fusion_parents import tokenizer as small
from support.unlike_tokenizers import added, byte_level, sentencepiece, unigram

TEXTS = ("a house, the red house", " two  spaces\n", "é雨🙂", "</s> <s> <pad>", "")


def with_bos() -> Any:
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(name, tokenizer.convert_tokens_to_ids(name)) for name in ("<s>", "</s>")]
    )
    return tokenizer


def with_template() -> Any:
    tokenizer = added(byte_level(), "<|im_start|>", "<|im_end|>", special=True)
    tokenizer.chat_template = "{% for message in messages %}<|im_start|>{{ message.content }}<|im_end|>{% endfor %}"
    return tokenizer


MADE = {
    "small": small,
    "byte-level": byte_level,
    "sentencepiece": sentencepiece,
    "unigram": unigram,
    "begins": with_bos,
    "template": with_template,
    "names": lambda: added(added(byte_level(), "<image>", special=True), "<tool>"),
    "space in front": lambda: tiny.space_tokenizer("prepend"),
}


def save(folder: Path, tokenizer: Any, config: dict[str, Any] | None = None) -> Path:
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | (config or {})))
    return folder


def assert_alike(found: Any, real: Any) -> None:
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "chat_template"):
        assert getattr(found, name) == getattr(real, name), name
    assert set(found.all_special_ids) == set(real.all_special_ids)
    assert found.get_vocab() == real.get_vocab()
    for text in TEXTS:
        for options in ({}, {"add_special_tokens": False}, {"add_special_tokens": False, "split_special_tokens": True}):
            assert found(text, **options).input_ids == real(text, **options)["input_ids"], (text, options)
            assert found(text, **options)["input_ids"] == real(text, **options).input_ids


@pytest.mark.parametrize("class_name", ["TokenizersBackend", "PreTrainedTokenizerFast"])
@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("beside_a_config", [False, True])
def test_it_is_what_transformers_makes_of_the_files(
    tmp_path: Path, made: str, class_name: str, beside_a_config: bool
) -> None:
    folder = save(tmp_path / "parent", MADE[made](), {"tokenizer_class": class_name})
    if beside_a_config:
        LlamaConfig().save_pretrained(folder)
    found = find_tokenizer(folder)
    assert isinstance(found, FileTokenizer)
    real = AutoTokenizer.from_pretrained(folder)
    assert_alike(found, real)
    found.save_pretrained(tmp_path / "copy")
    assert_alike(found, AutoTokenizer.from_pretrained(tmp_path / "copy"))
    assert not json.loads((tmp_path / "copy" / "tokenizer_config.json").read_text()).keys() & {
        "name_or_path",
        "local_files_only",
    }


def test_what_it_lacks_the_real_one_gives(tmp_path: Path) -> None:
    found = FileTokenizer.of(save(tmp_path, with_template()))
    assert found is not None
    asked = [{"role": "user", "content": "a"}]
    assert found.apply_chat_template(asked, tokenize=False) == "<|im_start|>a<|im_end|>"
    assert found.convert_ids_to_tokens(found.eos_token_id) == "</s>"


@pytest.mark.parametrize(
    "config",
    [
        {"tokenizer_class": "LlamaTokenizer"},
        {"tokenizer_class": None},
        {"add_bos_token": True},
        {"auto_map": {"AutoTokenizer": ["x.Y", None]}},
        {"eos_token": "<one that is not there>"},
        {"additional_special_tokens": ["<another>"]},
        {"added_tokens_decoder": {"7000": {"content": "<more>", "special": True}}},
        {"added_tokens_decoder": {"0": {"content": "<unk>", "special": False}}},
        {"some_new_field": 1},
    ],
)
def test_files_of_which_transformers_makes_more(tmp_path: Path, config: dict[str, Any]) -> None:
    assert FileTokenizer.of(save(tmp_path, byte_level(), config)) is None


@pytest.mark.parametrize("name", ["special_tokens_map.json", "added_tokens.json"])
def test_older_files_beside_it(tmp_path: Path, name: str) -> None:
    save(tmp_path, byte_level())
    (tmp_path / name).write_text("{}")
    assert FileTokenizer.of(tmp_path) is None


def test_no_tokenizer_json(tmp_path: Path) -> None:
    save(tmp_path, byte_level())
    (tmp_path / "tokenizer.json").unlink()
    assert FileTokenizer.of(tmp_path) is None


def test_a_pipeline_that_pads_or_cuts(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.save(str(save(tmp_path, byte_level()) / "tokenizer.json"))
    assert FileTokenizer.of(tmp_path) is None


def test_a_folder_named_tokenizer_without_tokenizer_files(tmp_path: Path) -> None:
    """Some checkpoints keep their image tokenizer there."""
    small().save_pretrained(tmp_path)
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "vqgan.ckpt").write_bytes(b"")
    found = find_tokenizer(tmp_path)
    assert found is not None and load_tokenizer(tmp_path).get_vocab() == found.get_vocab()
