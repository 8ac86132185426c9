"""Tokenizers that `transformers` reads from their files without changes, read without importing `transformers`."""

from __future__ import annotations

import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from jam.checkpoints.folders import copy_folder, write_json
from jam.files import read_json, reading

AS_THEY_ARE = ("TokenizersBackend", "PreTrainedTokenizerFast")
"""Classes that take the pipeline from tokenizer.json as it is."""
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
MORE_SPECIAL = ("additional_special_tokens", "extra_special_tokens")
WITHOUT_EFFECT = (
    "backend",
    "chat_template",
    "clean_up_tokenization_spaces",
    "is_local",
    "legacy",
    "local_files_only",
    "model_input_names",
    "model_max_length",
    "name_or_path",
    "padding_side",
    "processor_class",
    "special_tokens_map_file",
    "tokenizer_class",
    "truncation_side",
)
"""Fields of tokenizer_config.json that change no id."""
TEMPLATES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")


class Ids(dict[str, list[int]]):
    """The ids of a text, in the form in which a tokenizer of `transformers` returns them."""

    @property
    def input_ids(self) -> list[int]:
        return self["input_ids"]


class FileTokenizer:
    """The part of a tokenizer of `transformers` that fusion needs; other attributes are read from `real`.

    Attributes:
        backend_tokenizer: the pipeline of tokenizer.json.
        bos_token_id, eos_token_id, pad_token_id: None if the files do not name the token.
        all_special_tokens, all_special_ids: all special tokens that tokenizer_config.json names.
    """

    def __init__(self, folder: Path, config: dict[str, Any], pipeline: Tokenizer) -> None:
        self._folder, self._config, self.backend_tokenizer = folder, config, pipeline
        self._ids = {token.content: number for number, token in pipeline.get_added_tokens_decoder().items()}
        names = {role: _content(config[role]) for role in ROLES if config.get(role) is not None}
        self.bos_token_id, self.eos_token_id, self.pad_token_id = (
            self._ids[names[role]] if role in names else None for role in ("bos_token", "eos_token", "pad_token")
        )
        self.all_special_tokens = list(dict.fromkeys([*names.values(), *_more_special(config)]))
        self.all_special_ids = [self._ids[name] for name in self.all_special_tokens]

    @classmethod
    def of(cls, folder: Path) -> FileTokenizer | None:
        """The tokenizer of a folder; None if `transformers` would do more than read the files."""
        paths = [folder / name for name in ("tokenizer_config.json", "tokenizer.json")]
        if not all(path.is_file() for path in paths) or (folder / "special_tokens_map.json").is_file():
            return None
        config = read_json(paths[0])
        known = config.keys() <= {*WITHOUT_EFFECT, *ROLES, *MORE_SPECIAL, "added_tokens_decoder"}
        if not known or config.get("tokenizer_class") not in AS_THEY_ARE or (folder / "added_tokens.json").is_file():
            return None
        pipeline = Tokenizer.from_file(str(paths[1]))
        special = {token.content for token in pipeline.get_added_tokens_decoder().values() if token.special}
        named = [_content(config[role]) for role in ROLES if config.get(role) is not None] + _more_special(config)
        added = {int(number): token for number, token in config.get("added_tokens_decoder", {}).items()}
        stored = pipeline.get_added_tokens_decoder()
        as_stored = all(number in stored and _same(stored[number], token) for number, token in added.items())
        plain = pipeline.padding is None and pipeline.truncation is None
        return cls(folder, config, pipeline) if special.issuperset(named) and as_stored and plain else None

    @cached_property
    def real(self) -> Any:
        """The tokenizer of `transformers`."""
        from transformers import AutoTokenizer

        with reading(f"the tokenizer {self._folder}"):
            return AutoTokenizer.from_pretrained(self._folder, local_files_only=True, trust_remote_code=False)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.real, name)

    @property
    def chat_template(self) -> Any:
        """The chat template; None if there is none."""
        if any((self._folder / name).exists() for name in TEMPLATES) or self._config.get("chat_template"):
            return self.real.chat_template
        return None

    @property
    def added_tokens_decoder(self) -> dict[int, Any]:
        """Added tokens by id, with the attributes `content` and `special`."""
        return self.backend_tokenizer.get_added_tokens_decoder()

    @cached_property
    def _vocabulary(self) -> dict[str, int]:
        return self.backend_tokenizer.get_vocab(with_added_tokens=True)

    def get_vocab(self) -> dict[str, int]:
        """Id of every token."""
        return self._vocabulary

    def __call__(
        self, text: str, add_special_tokens: bool = True, split_special_tokens: bool = False, verbose: bool = True
    ) -> Ids:
        """As `real`; `verbose` has no effect: there is no warning of long texts."""
        self.backend_tokenizer.encode_special_tokens = split_special_tokens
        try:
            return Ids(input_ids=self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)
        finally:
            self.backend_tokenizer.encode_special_tokens = False

    def save_pretrained(self, folder: Path) -> None:
        """Copy the files, without the fields that describe this machine."""
        folder.mkdir(parents=True, exist_ok=True)
        left_out = ("is_local", "local_files_only", "name_or_path", "special_tokens_map_file")
        config = {name: value for name, value in self._config.items() if name not in left_out}
        write_json(folder / "tokenizer_config.json", config | {"tokenizer_class": AS_THEY_ARE[0]})
        shutil.copyfile(self._folder / "tokenizer.json", folder / "tokenizer.json")
        for name in TEMPLATES:
            source = self._folder / name
            if source.is_dir():
                copy_folder(source, folder / name)
            elif source.is_file():
                shutil.copyfile(source, folder / name)


def _content(token: str | dict[str, Any]) -> str:
    return token if isinstance(token, str) else token["content"]


def _more_special(config: dict[str, Any]) -> list[str]:
    lists = (config.get(name) or [] for name in MORE_SPECIAL)
    return [_content(token) for tokens in lists for token in (tokens.values() if isinstance(tokens, dict) else tokens)]


def _same(stored: Any, token: dict[str, Any]) -> bool:
    """True if tokenizer.json has an added token as tokenizer_config.json says."""
    fields = ("content", "special", "normalized", "lstrip", "rstrip", "single_word")
    return all(getattr(stored, name) == token[name] for name in fields if name in token)
