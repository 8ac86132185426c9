"""Text tokenizers: any of `transformers`."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

TOKENIZER_FOLDER = "tokenizer"


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer in ``folder/tokenizer`` or in ``folder`` itself.

    Raises:
        ValueError: there is none, or it has no end-of-text token to serve as ``</s>``.
    """
    folder = Path(folder)
    inner = folder / TOKENIZER_FOLDER
    source = inner if inner.is_dir() else folder
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"{source}: no tokenizer could be read ({str(error).splitlines()[0]})") from None
    if tokenizer.eos_token_id is None:
        raise ValueError(f"{source}: the tokenizer has no eos_token; it is needed as </s>, which frames documents")
    return tokenizer


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a text without special tokens; a special token's name in the text is ordinary text."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]


def decode_text(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)  # one sequence, one text
    return text
