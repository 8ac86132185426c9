"""Image tokenizers whose config does not fit: named before a library makes modules for hours, or random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import Emu3VQVAE, Emu3VQVAEConfig, JanusVQVAE, JanusVQVAEConfig

from jam.checkpoints.configs import load_config
from jam.codec import describe_image_tokenizer, load_image_tokenizer
from jam.codec.chameleon_convert import convert_chameleon
from jam.codec.chameleon_vqgan import ChameleonVQGAN, ChameleonVQGANConfig
from support import tiny
from support.original_vqgan import NETWORKS, save_original

SMALL: dict[str, Any] = {"base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1}
SMALL |= {"embed_dim": 4, "latent_channels": 4}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of each kind."""
    place = tmp_path_factory.mktemp("tokenizers")
    torch.manual_seed(0)
    tiny.save_vq(place / "diffusers")
    janus = JanusVQVAEConfig(**SMALL, num_embeddings=12, num_patches=2, projection_dim=8, image_token_embed_dim=8)
    JanusVQVAE(janus).save_pretrained(place / "janus")
    Emu3VQVAE(Emu3VQVAEConfig(**SMALL, codebook_size=12, hidden_size=32)).save_pretrained(place / "emu3")
    chameleon = ChameleonVQGANConfig(**SMALL, num_embeddings=12, resolution=16)
    ChameleonVQGAN(chameleon).save_pretrained(place / "chameleon")
    return place


def changed(folders: Path, kind: str, place: Path, **changes: Any) -> Path:
    shutil.copytree(folders / kind, place / kind)
    path = place / kind / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return place / kind


@pytest.mark.parametrize("kind", ["diffusers", "janus", "emu3", "chameleon"])
def test_a_whole_folder_is_taken(folders: Path, kind: str) -> None:
    assert load_image_tokenizer(folders / kind).info.codebook_size == 12


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("diffusers", {"layers_per_block": 2**31}, "layers_per_block is 2147483648; it must be 32 or less"),
        ("diffusers", {"layers_per_block": float("inf")}, "layers_per_block is inf; it must be 32 or less"),
        ("diffusers", {"block_out_channels": [8] * 17}, "block_out_channels has 17 entries; it must have 16 or less"),
        (
            "diffusers",
            {"block_out_channels": [8, 10**9]},
            "block_out_channels has 1000000000; it must be 16384 or less",
        ),
        ("diffusers", {"up_block_types": ["UpDecoderBlock2D"] * 99}, "up_block_types has 99 entries"),
        ("diffusers", {"latent_channels": 10**9}, "latent_channels is 1000000000; it must be 16384 or less"),
        ("diffusers", {"num_vq_embeddings": 10**12}, "num_vq_embeddings is 1000000000000; it must be 16777216 or less"),
        ("janus", {"num_res_blocks": 10**9}, "num_res_blocks is 1000000000; it must be 32 or less"),
        ("emu3", {"base_channels": 10**30}, "base_channels is 1000000000000000000000000000000; it must be 16384"),
        ("emu3", {"channel_multiplier": [1] * 400}, "channel_multiplier has 400 entries; it must have 16 or less"),
        ("chameleon", {"num_res_blocks": 50_000}, "num_res_blocks is 50000; it must be 32 or less"),
    ],
)
def test_a_config_that_asks_for_too_much_is_named(
    folders: Path, tmp_path: Path, kind: str, changes: dict[str, Any], words: str
) -> None:
    folder = changed(folders, kind, tmp_path, **changes)
    for read in (describe_image_tokenizer, load_image_tokenizer):
        with pytest.raises(ValueError, match=f"{kind}/config.json: {words}"):
            read(folder)


def test_one_inside_a_checkpoint_is_named_wherever_it_lies(tmp_path: Path) -> None:
    inside: dict[str, Any] = {"image_config": {"vq_config": {"num_res_blocks": 10**9}}}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "jam_cross"} | inside))
    with pytest.raises(ValueError, match=r"config.json: num_res_blocks is 1000000000; it must be 32 or less"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("diffusers", {"layers_per_block": 2}, r"missing \(decoder"),
        ("diffusers", {"mid_block_add_attention": False}, r"not expected \("),
        ("janus", {"channel_multiplier": [1, 1, 1]}, r"missing \(decoder"),
        ("emu3", {"num_res_blocks": 2}, r"missing \(decoder"),
        ("chameleon", {"num_res_blocks": 2}, r"missing \(decoder"),
    ],
)
def test_weights_that_are_not_those_of_the_config(
    folders: Path, tmp_path: Path, kind: str, changes: dict[str, Any], words: str
) -> None:
    """What is missing would be random numbers."""
    folder = changed(folders, kind, tmp_path, **changes)
    with pytest.raises(ValueError, match=rf"{kind}: the tensors do not fit its config.json: \d+ {words}"):
        load_image_tokenizer(folder)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("num_res_blocks", 10**9, "num_res_blocks is 1000000000; it must be 32 or less"),
        ("ch_mult", [1] * 400, "ch_mult has 400 entries; it must have 16 or less"),
        ("ch_mult", [10**9, 1], "ch_mult has 1000000000; it must be 16384 or less"),
        ("ch", 10**9, "ch is 1000000000; it must be 16384 or less"),
        ("ch", -1, "cannot be read"),
        ("ch", 33, "cannot be read .num_channels"),
        ("z_channels", -1, "cannot be read"),
        ("out_ch", "a\nb", "cannot be read"),
        ("double_z", "a\nb", r"double_z is 'a\\nb'; only the network of Chameleon is known"),
    ],
)
def test_a_description_that_no_network_has_is_named(tmp_path: Path, key: str, value: Any, words: str) -> None:
    checkpoint = save_original(tmp_path, next(iter(NETWORKS.values())))
    path = checkpoint.with_suffix(".yaml")
    description = yaml.safe_load(path.read_text())
    description["model"]["params"]["ddconfig"][key] = value
    path.write_text(yaml.safe_dump(description))
    with pytest.raises(ValueError, match=rf"vqgan.yaml:? {words}") as caught:
        convert_chameleon(checkpoint, tmp_path / "out")
    assert "\n" not in str(caught.value)
