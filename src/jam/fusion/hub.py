"""Parents by hub id: the files to fetch, the folder in the cache, its origin and its license."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from jam.checkpoints import has_weights
from jam.files import parse_yaml, read_bytes

# Not "*.safetensors": some repositories hold their weights twice, under other names.
WEIGHTS = ["model*.safetensors", "model.safetensors.index.json"]
OLDER_WEIGHTS = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]
TOKENIZER = ["tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*"]
PROCESSOR = ["preprocessor_config.json", "processor_config.json"]  # sizes of pictures
IMAGE_TOKENIZER = ["image_tokenizer/*", *PROCESSOR]
DESCRIPTION = ["config.json", "generation_config.json", "manifest.json", "README.md", *TOKENIZER, *IMAGE_TOKENIZER]
HEAD, MAX_CARD = re.compile(r"\s*---[ \t]*[\r\n]+(.*?)[\r\n]+---(?:\s|$)", re.DOTALL), 2**20  # of a model card
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")


class Origin(NamedTuple):
    repository: str
    revision: str


def locate(name: str | Path, role: str, weights: bool = True) -> Path:
    """The folder of a parent; a hub id ("owner/name", or "owner/name@revision") is fetched into the hub's cache.

    Args:
        role: names the parent in messages.
        weights: True to fetch the weights too, not only the description of the parent.

    Raises:
        ValueError: there is no such model, no access to it, or no connection to the hub while the cache lacks it.
    """
    if Path(name).exists() or not HUB_ID.fullmatch(str(name)):
        return Path(name)
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, _, revision = str(name).partition("@")
    page, parent = f"https://huggingface.co/{repository}", f"the {role} parent {name}"
    try:
        folder = _fetch(repository, revision, DESCRIPTION + (WEIGHTS if weights else []))
        if weights and not has_weights(folder):
            folder = _fetch(repository, revision, DESCRIPTION + OLDER_WEIGHTS)
    except GatedRepoError:
        raise ValueError(f"{parent} is gated: accept its terms at {page}, then log in with `hf auth login`") from None
    except RevisionNotFoundError:
        raise ValueError(f"{parent}: {page} has no revision {revision}") from None
    except RepositoryNotFoundError:
        raise ValueError(
            f"{parent}: there is no such folder, and no such model on the hub, or a private one (`hf auth login`)"
        ) from None
    except LocalEntryNotFoundError:
        raise ValueError(
            f"{parent}: there is no such folder, the hub cannot be reached (no network, or HF_HUB_OFFLINE is set), and "
            f"its cache does not hold this model; fetch it where there is a network with `hf download {repository}`, "
            "or give a folder"
        ) from None
    return folder


def _fetch(repository: str, revision: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(repository, revision=revision or None, allow_patterns=patterns))


def origin(folder: Path) -> Origin | None:
    """Hub id and commit of a folder in the hub's cache; None for any other folder."""
    match folder.resolve().parts:
        case [*_, repository, "snapshots", revision] if repository.startswith("models--"):
            return Origin(repository.removeprefix("models--").replace("--", "/"), revision)
    return None


def license_of(folder: Path) -> str | None:
    """The license that a model card states; None if it states none."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    try:
        head = HEAD.match(read_bytes(card, MAX_CARD).decode())
        values = parse_yaml(head[1], str(card)) if head else None
    except ValueError:  # notes, or a card that was written by hand
        return None
    stated = values.get("license") if isinstance(values, dict) else None
    return stated if isinstance(stated, str) else None
