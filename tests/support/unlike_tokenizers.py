"""Tokenizers of different kinds over the same strings, built by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from jam.fusion.pieces import Pieces, byte_letters, find_pieces

SPACE = "\u2581"
LETTER_OF = {byte: letter for letter, byte in byte_letters().items()}
WORDS = ("t", "th", "the", "he", "ho", "us", "hous", "house", "re", "red", "is", "dr", "aw", "draw")
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SPECIAL = {"eos_token": "</s>", "bos_token": "<s>"}


def merges_of(words: list[str]) -> list[tuple[str, str]]:
    """One merge for every word that can be made of two others, or of another and a letter, in order."""
    known, merges = set(), []
    for word in words:
        cut = next(cut for cut in range(1, len(word)) if {word[:cut], word[cut:]} <= known | set(word))
        merges.append((word[:cut], word[cut:]))
        known.add(word)
    return merges


def byte_level(words: tuple[str, ...] = WORDS, prefix: bool = False, special: Any = SPECIAL) -> PreTrainedTokenizerFast:
    """As GPT-2's and Qwen's; with the first half of an emoji as a token, as such tokenizers have."""
    space, half = LETTER_OF[32], LETTER_OF[0xF0] + LETTER_OF[0x9F]
    long = [word for word in words if len(word) > 1]
    made = [*long, *(space + word for word in words), half]
    names = [*(special or SPECIAL).values(), *sorted(byte_letters()), *made]
    tokenizer = Tokenizer(models.BPE({name: index for index, name in enumerate(names)}, merges_of(made)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def sentencepiece(
    words: tuple[str, ...] = WORDS, prefix: str = "normalizer", byte_fallback: bool = True, special: Any = SPECIAL
) -> PreTrainedTokenizerFast:
    """A BPE as Llama's, which puts a space in front of a text: by a normalizer, or by Metaspace."""
    long = [word for word in words if len(word) > 1]
    made = [*long, *(SPACE + word for word in words), SPACE * 2]
    letters = [SPACE, *map(chr, range(33, 127)), "é"]
    names = ["<unk>", *special.values(), *(BYTES if byte_fallback else []), *letters, *made]
    vocabulary = {name: index for index, name in enumerate(names)}
    bpe = models.BPE(vocabulary, merges_of(made), unk_token="<unk>", byte_fallback=byte_fallback)
    tokenizer = Tokenizer(bpe)
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    if prefix == "normalizer":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prefix, split=False)
    tokenizer.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **special)


def unigram(words: tuple[str, ...] = WORDS, special: Any = SPECIAL) -> PreTrainedTokenizerFast:
    """A Unigram with NFKC and without byte tokens: what it has no letter for is unknown to it."""
    made = [*(word for word in words if len(word) > 1), *(SPACE + word for word in words)]
    letters = [SPACE, *map(chr, range(33, 127))]
    scores = [("<unk>", 0.0), *((name, 0.0) for name in special.values())]
    scores += [(letter, -10.0) for letter in letters] + [(word, -5.0) for word in made]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=0, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **special)


KINDS = {"byte-level": byte_level, "sentencepiece": sentencepiece, "unigram": unigram}


def added(tokenizer: PreTrainedTokenizerFast, *names: str, special: bool = False) -> PreTrainedTokenizerFast:
    tokenizer.add_tokens([AddedToken(name, special=special, normalized=False) for name in names], special)
    return tokenizer


def as_parent(tokenizer: PreTrainedTokenizerFast, role: str) -> Any:
    """What of a `Parent` its tokens need."""
    return SimpleNamespace(role=role, folder=Path(role), tokenizer=tokenizer, pipeline=tokenizer.backend_tokenizer)


class Reading:
    """Pieces of the tokens of one tokenizer in another, by name."""

    def __init__(self, text: PreTrainedTokenizerFast, image: PreTrainedTokenizerFast) -> None:
        self.text, self.image = text, image
        self.pieces: Pieces = find_pieces(as_parent(text, "text"), as_parent(image, "image"), len(text))

    def __getitem__(self, name: str) -> list[str]:
        token = self.text.convert_tokens_to_ids(name)
        assert self.text.convert_ids_to_tokens(token) == name
        rows = self.pieces.rows[self.pieces.starts[token] : self.pieces.starts[token + 1]]
        return self.image.convert_ids_to_tokens(rows.tolist())
