"""Parents by hub id, from a cache as the hub's client leaves it; and the card of the result."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

import jam.fusion.hub
from jam.checkpoints import Manifest
from jam.evaluation.parents import find_parent
from jam.fusion import FuseConfig, find_image_tokenizer, fuse
from support.fusion_parents import CODES, IMAGE_TOKENIZER, TEXT_SIZE, llama_config, opened, run, save_parent
from support.hub_cache import COMMIT, offline, store


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that holds somebody/llm and somebody/painter, and no network."""
    offline(monkeypatch, tmp_path / "cache")
    for repository, codes, license in (("somebody/llm", 0, "mit"), ("somebody/painter", CODES, "mit")):
        made = tmp_path / "made"
        save_parent(made, llama_config(TEXT_SIZE + codes), codes)
        (made / "README.md").write_text(f"---\nlicense: {license}\n---\n# Model\n")
        store(made, tmp_path / "cache" / f"models--{repository.replace('/', '--')}")
    return tmp_path


def config(cache: Path, **changes: Any) -> FuseConfig:
    named = {"text": "somebody/llm", "image": f"somebody/painter@{COMMIT}", "out": str(cache / "out"), "sentinels": 2}
    return FuseConfig(**(named | changes))


def test_parents_from_the_cache(cache: Path) -> None:
    fuse(config(cache, method="uniform"), IMAGE_TOKENIZER)
    opened(cache / "out")
    ancestors = Manifest.load(cache / "out").ancestors
    assert [(one["name"], one["revision"]) for one in ancestors] == [
        ("somebody/llm", COMMIT),
        ("somebody/painter", COMMIT),
    ]
    weights = cache / "cache" / "models--somebody--llm" / "snapshots" / COMMIT / "model.safetensors"
    assert ancestors[0]["files"] == {"model.safetensors": weights.resolve().name}  # as the hub names it
    text = "".join(path.read_text() for path in (cache / "out").iterdir() if path.suffix in (".json", ".md"))
    assert str(cache) not in text


def test_image_tokenizer_of_a_parent_in_the_cache(cache: Path) -> None:
    assert find_image_tokenizer(config(cache)) is None
    snapshot = cache / "cache" / "models--somebody--painter" / "snapshots" / COMMIT
    (snapshot / "image_tokenizer").mkdir()
    assert find_image_tokenizer(config(cache)) == snapshot / "image_tokenizer"


def test_shard_in_the_cache_that_is_damaged(cache: Path) -> None:
    path = cache / "cache" / "models--somebody--llm" / "snapshots" / COMMIT / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.resolve().write_bytes(data)
    with pytest.raises(ValueError, match=r"model.safetensors is damaged: its SHA-256 is \w+, the hub's is \w+; fetch"):
        fuse(config(cache), IMAGE_TOKENIZER)
    assert not (cache / "out").exists() and not (cache / ".out.partial").exists()


def test_model_that_the_cache_does_not_hold(cache: Path) -> None:
    for changes in ({"text": "somebody/other"}, {"text": "somebody/llm@v2"}):
        with pytest.raises(
            ValueError, match=r"the text parent somebody/\S+: there is no such folder, the hub cannot be"
        ):
            fuse(config(cache, **changes), IMAGE_TOKENIZER)
    with pytest.raises(ValueError, match=r"has no config.json; give the folder of a saved model"):
        fuse(config(cache, text="no/hub/id"), IMAGE_TOKENIZER)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            GatedRepoError,
            r"somebody/llm@v2 is gated: accept its terms at \S+somebody/llm, then log in with `hf auth login`",
        ),
        (RepositoryNotFoundError, r"no such folder, and no such model on the hub, or a private one"),
        (RevisionNotFoundError, r"somebody/llm has no revision v2"),
    ],
)
def test_what_the_hub_refuses(cache: Path, kind: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusal(kind):
        def __init__(self) -> None:
            Exception.__init__(self, "the hub's own words")

    def refuse(*_: Any, **__: Any) -> None:
        raise Refusal

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(ValueError, match=message):
        fuse(config(cache, text="somebody/llm@v2"), IMAGE_TOKENIZER)


def test_what_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights once, older ones only where there are no others, none for a plan."""
    asked = []

    def download(repository: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repository, revision, set(allow_patterns) - set(jam.fusion.hub.DESCRIPTION)))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert jam.fusion.hub.locate("somebody/llm", "text", weights=False) == tmp_path
    jam.fusion.hub.locate("somebody/llm@v2", "text")
    (tmp_path / "model.safetensors").touch()
    jam.fusion.hub.locate("somebody/llm", "text")
    new, old = set(jam.fusion.hub.WEIGHTS), set(jam.fusion.hub.OLDER_WEIGHTS)
    assert asked == [
        ("somebody/llm", None, set()),
        ("somebody/llm", "v2", new),
        ("somebody/llm", "v2", old),
        ("somebody/llm", None, new),
    ]


def test_folder_goes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "somebody" / "llm").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    assert jam.fusion.hub.locate("somebody/llm", "text") == Path("somebody/llm")


# --- the card ----------------------------------------------------------------------------------------------------


def test_card_of_parents_from_the_hub(cache: Path) -> None:
    fuse(config(cache, method="uniform", weight=0.25), IMAGE_TOKENIZER)
    card = ModelCard.load(cache / "out" / "README.md")
    assert card.data.to_dict() == {
        "base_model": ["somebody/llm", "somebody/painter"],
        "base_model_relation": "merge",
        "library_name": "transformers",
        "license": "mit",
        "pipeline_tag": "any-to-any",
        "tags": ["jam", "merge", "uniform"],
    }
    ancestors = Manifest.load(cache / "out").ancestors
    assert all(one["name"] in card.text and one["sha256"] in card.text for one in ancestors)
    assert "uniform (weight 0.25)" in card.text and "# out\n" in card.text


def test_card_of_other_parents(tmp_path: Path) -> None:
    for role, codes, text in (("text", 0, "---\nlicense: mit\n---\n"), ("image", CODES, "---\n[broken\n---\n")):
        save_parent(tmp_path / role, llama_config(TEXT_SIZE + codes), 1)
        (tmp_path / role / "README.md").write_text(text)
    plan = run(tmp_path, every=1)
    text = (tmp_path / "out" / "README.md").read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    assert head == {"library_name": "jam-fusion", "pipeline_tag": "any-to-any", "tags": ["jam", "merge", "cross"]}
    assert "| mit |" in text and "| not stated |" in text and f"{plan.parameters:,} parameters" in text
    assert str(tmp_path) not in text
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (
        manifest["options"] == {"every": 1, "readout": "exact", "seed": 0}
        and "revision" not in manifest["ancestors"][0]
    )


@pytest.mark.parametrize(("role", "name"), [("text", "llm"), ("image", "painter")])
def test_verify_asks_for_a_parent_that_the_hub_does_not_give(cache: Path, role: str, name: str) -> None:
    fuse(config(cache), IMAGE_TOKENIZER)
    kept = shutil.copytree(cache / "cache" / f"models--somebody--{name}" / "snapshots" / COMMIT, cache / "kept")
    shutil.rmtree(cache / "cache" / f"models--somebody--{name}")
    manifest = Manifest.load(cache / "out")
    with pytest.raises(ValueError, match=rf"the hub cannot be reached .*; name where it lies with --{role}"):
        find_parent(cache / "out", manifest, role, None, lambda what: None)
    assert find_parent(cache / "out", manifest, role, kept, lambda what: None).folder == kept
