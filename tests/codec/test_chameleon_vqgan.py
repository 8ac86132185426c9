"""The VQGAN of Chameleon: original checkpoints become folders that encode as `transformers` does, and that decode."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import VQModel
from safetensors.torch import load_file, save_file
from transformers import ChameleonVQVAE, LlamaConfig

from jam.cli import main
from jam.codec import describe_image_tokenizer, load_image_tokenizer
from jam.codec.chameleon_convert import convert_chameleon, read_description
from jam.codec.chameleon_vqgan import ChameleonVQGAN, ChameleonVQGANConfig
from support import tiny
from support.original_vqgan import (
    CHAMELEON,
    CODES,
    EMBED,
    NETWORK,
    NETWORKS,
    original_shapes,
    original_tensors,
    plain_decode,
    save_original,
    save_whole_model,
    transformers_config,
    without_decoder,
)

# Against the original and against `transformers`


@pytest.mark.parametrize("network", [*NETWORKS.values(), CHAMELEON], ids=[*NETWORKS, "chameleon"])
def test_names_and_shapes_are_the_originals(network: dict[str, Any], tmp_path: Path) -> None:
    save_original(tmp_path, network, {})
    with torch.device("meta"):
        model = ChameleonVQGAN(read_description(tmp_path / "vqgan.yaml"))
    assert {name: tuple(t.shape) for name, t in model.state_dict().items()} == original_shapes(network)


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_a_converted_checkpoint_encodes_as_transformers_and_decodes_as_the_original(
    network: dict[str, Any], tmp_path: Path
) -> None:
    tensors = original_tensors(network)
    assert convert_chameleon(save_original(tmp_path, network), tmp_path / "out")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert stored.keys() == tensors.keys()
    assert all(torch.equal(stored[name], tensor) for name, tensor in tensors.items())
    model = ChameleonVQGAN.from_pretrained(tmp_path / "out")
    reference = ChameleonVQVAE(transformers_config(network))
    reference.load_state_dict(without_decoder(tensors))
    pixels = torch.rand(2, 3, network["resolution"], network["resolution"]) * 2 - 1
    with torch.no_grad():
        ours, theirs = model.encode(pixels), reference.encode(pixels)
        assert torch.equal(ours.image_tokens, theirs.image_tokens)
        assert torch.equal(ours.last_hidden_state, theirs.last_hidden_state)
        assert len(ours.image_tokens.unique()) > 1
        side = network["resolution"] // 2 ** (len(network["ch_mult"]) - 1)
        codes = ours.image_tokens.view(2, side, side)
        decoded = model.double().decode(codes)
        wide = {name: tensor.double() for name, tensor in tensors.items()}
        torch.testing.assert_close(decoded, plain_decode(wide, network, codes), rtol=0, atol=1e-9)


def diffusers_name(name: str, levels: int) -> str:
    """What `diffusers.VQModel` calls a tensor of the original decoder."""
    name = re.sub(r"up\.(\d+)\.", lambda level: f"up_blocks.{levels - 1 - int(level[1])}.", name)
    replacements = {
        "block.": "resnets.",
        "nin_shortcut": "conv_shortcut",
        "upsample.conv": "upsamplers.0.conv",
        "mid.block_1": "mid_block.resnets.0",
        "mid.block_2": "mid_block.resnets.1",
        "mid.attn_1.norm": "mid_block.attentions.0.group_norm",
        "mid.attn_1.proj_out": "mid_block.attentions.0.to_out.0",
        "mid.attn_1.": "mid_block.attentions.0.to_",
        "norm_out": "conv_norm_out",
    }
    for original, theirs in replacements.items():
        name = name.replace(f".{original}", f".{theirs}")
    return name


def test_the_decoder_is_that_of_diffusers() -> None:
    """Which has no attention but in the middle."""
    network = NETWORK | {"attn_resolutions": []}
    levels = len(network["ch_mult"])
    theirs = VQModel(
        block_out_channels=[network["ch"] * factor for factor in network["ch_mult"]],
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        layers_per_block=network["num_res_blocks"],
        latent_channels=network["z_channels"],
        num_vq_embeddings=CODES,
        vq_embed_dim=EMBED,
    )
    tensors = original_tensors(network)
    decoding = {name: t for name, t in tensors.items() if name.startswith(("decoder.", "post_quant_conv."))}
    shapes = {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    renamed = {diffusers_name(name, levels): tensor for name, tensor in decoding.items()}
    assert renamed.keys() == {name for name in shapes if name.startswith(("decoder.", "post_quant_conv."))}
    theirs.load_state_dict({name: t.view(shapes[name]) for name, t in renamed.items()}, strict=False)
    config = transformers_config(network).to_dict()
    ours = ChameleonVQGAN(ChameleonVQGANConfig(**config))
    ours.load_state_dict(tensors)
    codes = torch.randint(CODES, (2, 4, 4))
    latents = tensors["quantize.embedding.weight"][codes].movedim(-1, 1)
    with torch.no_grad():
        expected = theirs.double().decode(latents.double(), force_not_quantize=True).sample
        torch.testing.assert_close(ours.double().decode(codes), expected, rtol=0, atol=1e-9)


def small_config() -> dict[str, Any]:
    return {
        "embed_dim": 8,
        "num_embeddings": 16,
        "latent_channels": 8,
        "resolution": 16,
        "base_channels": 32,
        "channel_multiplier": [1, 1, 1],
        "num_res_blocks": 1,
    }


def test_pictures_of_other_grids_decode() -> None:
    torch.manual_seed(0)
    model = ChameleonVQGAN(ChameleonVQGANConfig(**small_config()))
    assert model.decode(torch.zeros(1, 3, 5, dtype=torch.long)).shape == (1, 3, 12, 20)


def test_training_lowers_the_reconstruction_loss() -> None:
    """Gradients reach encoder and decoder: one picture is learnt by heart."""
    torch.manual_seed(0)
    model = ChameleonVQGAN(ChameleonVQGANConfig(**small_config()))
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    corner = torch.linspace(-1, 1, 16)
    picture = torch.stack([corner.expand(16, 16), corner[:, None].expand(16, 16), corner.expand(16, 16).flip(1)])[None]
    losses = []
    for _ in range(40):
        encoded = model.encode(picture)
        decoded = model.decoder(model.post_quant_conv(encoded.quantized_last_hidden_state))
        loss = (decoded - picture).square().mean()
        losses.append(loss.item())
        optimiser.zero_grad()
        (loss + encoded.embedding_loss).backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimiser.step()
    assert min(losses[-5:]) < 0.3 * losses[0]


def test_an_image_tokenizer_folder(tmp_path: Path) -> None:
    convert_chameleon(save_original(tmp_path), tmp_path / "out")
    info = describe_image_tokenizer(tmp_path / "out")
    assert (info.codebook_size, info.grid, info.resolution) == (CODES, (4, 4), 16)
    tokenizer = load_image_tokenizer(tmp_path / "out")
    pictures = [tiny.picture(seed, (20, 16)) for seed in range(3)]
    codes = tokenizer.encode(pictures)
    assert codes.shape == (3, 4, 4) and codes.dtype == torch.long
    assert torch.equal(tokenizer.encode(pictures, batch_size=1), codes)
    decoded = tokenizer.decode(codes, batch_size=2)
    assert [picture.size for picture in decoded] == [(16, 16)] * 3
    with torch.no_grad():
        pixels = plain_decode(original_tensors(NETWORK), NETWORK, codes)
    shown = torch.stack([tokenizer.to_pixels(picture) for picture in decoded])
    torch.testing.assert_close(shown, pixels.clamp(-1, 1), rtol=0, atol=1 / 127)


# Out of a checkpoint of `transformers`


def test_a_checkpoint_of_transformers_encodes_and_says_that_it_cannot_decode(tmp_path: Path) -> None:
    model = save_whole_model(tmp_path / "whole")
    assert not convert_chameleon(tmp_path / "whole", tmp_path / "out")
    tokenizer = load_image_tokenizer(tmp_path / "out")
    pictures = [tiny.picture(seed, (16, 16)) for seed in range(2)]
    codes = tokenizer.encode(pictures)
    pixels = torch.stack([tokenizer.to_pixels(picture) for picture in pictures])
    with torch.no_grad():
        assert torch.equal(codes.flatten(), model.model.vqmodel.encode(pixels).image_tokens)
    with pytest.raises(ValueError, match=r"only encodes.*leaves the decoder out.*jam convert-tokenizer vqgan\.ckpt"):
        tokenizer.decode(codes)


def test_a_checkpoint_of_transformers_with_decoder_weights_is_taken_whole(tmp_path: Path) -> None:
    """Some were converted with the decoder's tensors under their original names."""
    save_whole_model(tmp_path / "whole")
    stored, tensors = load_file(tmp_path / "whole" / "model.safetensors"), original_tensors(NETWORK)
    decoder = {f"model.vqmodel.{name}": tensor for name, tensor in tensors.items() if name.startswith("decoder.")}
    save_file(stored | decoder, tmp_path / "whole" / "model.safetensors", {"format": "pt"})
    assert convert_chameleon(tmp_path / "whole", tmp_path / "out")
    convert_chameleon(save_original(tmp_path / "original"), tmp_path / "same")
    ours, original = load_image_tokenizer(tmp_path / "out"), load_image_tokenizer(tmp_path / "same")
    assert ours.hash() == original.hash()


# Mistakes


def test_missing_and_unknown_tensors_are_listed(tmp_path: Path) -> None:
    tensors = original_tensors(NETWORK)
    tensors["decoder.up.0.block.9.conv1.weight"] = tensors.pop("decoder.conv_in.weight")
    tensors["quantize.embedding.weight"] = torch.zeros(CODES + 1, EMBED)
    with pytest.raises(ValueError) as error:
        convert_chameleon(save_original(tmp_path, NETWORK, tensors), tmp_path / "out")
    message = str(error.value)
    assert "does not fit its vqgan.yaml" in message
    assert "1 missing (decoder.conv_in.weight)" in message
    assert "1 not expected (decoder.up.0.block.9.conv1.weight)" in message
    assert f"quantize.embedding.weight [{CODES + 1}, {EMBED}] instead of [{CODES}, {EMBED}]" in message
    assert not (tmp_path / "out").exists()


def test_an_original_file_without_decoder_is_refused(tmp_path: Path) -> None:
    path = save_original(tmp_path, NETWORK, without_decoder(original_tensors(NETWORK)))
    with pytest.raises(ValueError, match=r"missing \(decoder\.conv_in\.bias"):
        convert_chameleon(path, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"double_z": True}, "double_z is True; only the network of Chameleon is known, which has False"),
        ({"resamp_with_conv": False}, "resamp_with_conv is False"),
        ({"tanh_out": True}, "tanh_out is True"),
        ({"attn_type": "linear"}, "attn_type is 'linear'; known: vanilla, none"),
        ({"ch": "wide"}, r"does not describe a VQGAN \(.*base_channels"),
    ],
)
def test_other_networks_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    save_original(tmp_path, NETWORK | changes, {})
    with pytest.raises(ValueError, match=message):
        read_description(tmp_path / "vqgan.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {params: {n_embed: 4, embed_dim: 4}}", "has no 'ddconfig'; expected model.params"),
        ("model: {params: {n_embed: 4, embed_dim: 4, ddconfig: {ch: 32}}}", "has no 'ch_mult'"),
        ("- a\n- b\n", "does not describe a VQGAN"),
        ("model: [1\n", "is not valid YAML"),
    ],
)
def test_a_broken_description(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "vqgan.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_description(tmp_path / "vqgan.yaml")


class Foreign:
    """Something that no file of plain tensors holds."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {}, "callbacks": Foreign()}, r"holds more than tensors \(.*\), and is not unpickled"),
        ({"state_dict": {"a": 1}}, "holds no tensors by name"),
        ({}, "holds no tensors by name"),
    ],
)
def test_a_checkpoint_of_something_else(content: Any, message: str, tmp_path: Path) -> None:
    path = save_original(tmp_path)
    torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        convert_chameleon(path, tmp_path / "out")


def test_a_damaged_checkpoint(tmp_path: Path) -> None:
    path = save_original(tmp_path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"vqgan\.ckpt is damaged"):
        convert_chameleon(path, tmp_path / "out")


def test_sources_that_are_missing_or_others(tmp_path: Path) -> None:
    path = save_original(tmp_path / "a")
    with pytest.raises(ValueError, match=r"other\.yaml does not exist; name the YAML file .* with --yaml"):
        convert_chameleon(path, tmp_path / "out", tmp_path / "other.yaml")
    with pytest.raises(ValueError, match=r"no\.ckpt does not exist"):
        convert_chameleon(tmp_path / "no.ckpt", tmp_path / "out")
    with pytest.raises(ValueError, match=r"has no config\.json; .* name the \.ckpt file itself"):
        convert_chameleon(tmp_path / "a", tmp_path / "out")
    with pytest.raises(ValueError, match=r"no image tokenizer here .* make one of vqgan\.ckpt with `jam convert-token"):
        describe_image_tokenizer(tmp_path / "a")
    LlamaConfig().save_pretrained(tmp_path / "llama")
    with pytest.raises(ValueError, match="is a checkpoint of 'llama'"):
        convert_chameleon(tmp_path / "llama", tmp_path / "out")
    save_whole_model(tmp_path / "whole")
    with pytest.raises(ValueError, match="this is a whole model; make its image tokenizer with `jam convert-token"):
        describe_image_tokenizer(tmp_path / "whole")
    with pytest.raises(ValueError, match=r"which its config\.json describes; leave"):
        convert_chameleon(tmp_path / "whole", tmp_path / "out", path.with_suffix(".yaml"))


def test_a_whole_model_whose_image_tokenizer_was_left_out(tmp_path: Path) -> None:
    model = save_whole_model(tmp_path / "whole")
    kept = {name: tensor for name, tensor in model.state_dict().items() if "vqmodel" not in name}
    model.save_pretrained(tmp_path / "bare", state_dict=kept)
    with pytest.raises(ValueError, match=r"holds no image tokenizer: .* begins with model\.vqmodel\."):
        convert_chameleon(tmp_path / "bare", tmp_path / "out")


# The command


def test_the_command(capsys: Any, tmp_path: Path) -> None:
    path = save_original(tmp_path / "a").rename(tmp_path / "weights.ckpt")
    arguments = ["convert-tokenizer", str(path), "--yaml", str(tmp_path / "a" / "vqgan.yaml")]
    out = tmp_path / "out"
    assert main([*arguments, "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 24 codes, pictures of 16 x 16 pixels are 4 x 4 tokens\n"
    assert sorted(file.name for file in out.iterdir()) == ["config.json", "model.safetensors"]
    assert main([*arguments, "--out", str(out)]) == 1
    assert f"{out} exists" in capsys.readouterr().err
    save_whole_model(tmp_path / "whole")
    assert main(["convert-tokenizer", str(tmp_path / "whole"), "--out", str(tmp_path / "other")]) == 0
    assert "it only encodes" in capsys.readouterr().out
