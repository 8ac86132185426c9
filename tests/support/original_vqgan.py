"""The original format of Chameleon's VQGAN, written down a second time: names, shapes and computation.

They are those of CompVis' taming-transformers, here as functions of the `ddconfig` and of named tensors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor
from transformers import ChameleonConfig, ChameleonForConditionalGeneration, ChameleonVQVAEConfig

CODES, EMBED = 24, 6
# Widths that differ by level, attention at one resolution, pictures of 16 x 16 pixels as 4 x 4 codes.
NETWORK: dict[str, Any] = {
    "double_z": False,
    "z_channels": 8,
    "resolution": 16,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 2, 1],
    "num_res_blocks": 1,
    "attn_resolutions": [8],
    "dropout": 0.0,
}
CHAMELEON = NETWORK | {
    "z_channels": 256,
    "resolution": 512,
    "ch": 128,
    "ch_mult": [1, 1, 2, 2, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
}
NETWORKS = {
    "attention": NETWORK,
    "flat": NETWORK | {"ch_mult": [1, 1], "num_res_blocks": 2, "attn_resolutions": []},
    "no-attention": NETWORK | {"attn_type": "none"},
}


def convolution(name: str, inner: int, outer: int, kernel: int = 3) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outer, inner, kernel, kernel), f"{name}.bias": (outer,)}


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def residual(name: str, inner: int, outer: int) -> dict[str, tuple[int, ...]]:
    shapes = norm(f"{name}.norm1", inner) | convolution(f"{name}.conv1", inner, outer)
    shapes |= norm(f"{name}.norm2", outer) | convolution(f"{name}.conv2", outer, outer)
    return shapes | (convolution(f"{name}.nin_shortcut", inner, outer, 1) if inner != outer else {})


def attention(name: str, width: int, network: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    if network.get("attn_type") == "none":
        return {}
    shapes = norm(f"{name}.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        shapes |= convolution(f"{name}.{part}", width, width, 1)
    return shapes


def original_shapes(network: dict[str, Any], codes: int = CODES, embed: int = EMBED) -> dict[str, tuple[int, ...]]:
    widths, latents = [network["ch"] * factor for factor in network["ch_mult"]], network["z_channels"]
    last, blocks = len(widths) - 1, network["num_res_blocks"]
    shapes = convolution("encoder.conv_in", network["in_channels"], widths[0])
    shapes |= convolution("decoder.conv_in", latents, widths[-1])
    for level, width in enumerate(widths):
        before, after = widths[max(level - 1, 0)], widths[min(level + 1, last)]
        for name, inner, count in (("encoder.down", before, blocks), ("decoder.up", after, blocks + 1)):
            name = f"{name}.{level}"
            for index in range(count):
                shapes |= residual(f"{name}.block.{index}", width if index else inner, width)
                if network["resolution"] // 2**level in network["attn_resolutions"]:
                    shapes |= attention(f"{name}.attn.{index}", width, network)
        if level < last:
            shapes |= convolution(f"encoder.down.{level}.downsample.conv", width, width)
        if level > 0:
            shapes |= convolution(f"decoder.up.{level}.upsample.conv", width, width)
    for side, end, channels in (("encoder", widths[-1], latents), ("decoder", widths[0], network["out_ch"])):
        for block in ("block_1", "block_2"):
            shapes |= residual(f"{side}.mid.{block}", widths[-1], widths[-1])
        shapes |= attention(f"{side}.mid.attn_1", widths[-1], network)
        shapes |= norm(f"{side}.norm_out", end) | convolution(f"{side}.conv_out", end, channels)
    shapes |= convolution("quant_conv", latents, embed, 1) | convolution("post_quant_conv", embed, latents, 1)
    return shapes | {"quantize.embedding.weight": (codes, embed)}


def original_tensors(network: dict[str, Any]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in original_shapes(network).items()}


def save_original(folder: Path, network: dict[str, Any] = NETWORK, tensors: dict[str, Tensor] | None = None) -> Path:
    """``vqgan.ckpt`` with what training leaves in it, and ``vqgan.yaml``."""
    folder.mkdir(exist_ok=True)
    training = {"loss.discriminator.main.0.weight": torch.ones(2), "loss.perceptual_loss.lin0.weight": torch.ones(2)}
    state = (original_tensors(network) if tensors is None else tensors) | training
    torch.save({"epoch": 3, "global_step": 7, "state_dict": state}, folder / "vqgan.ckpt")
    params = {"ddconfig": network, "embed_dim": EMBED, "n_embed": CODES, "lossconfig": {"target": "x"}}
    (folder / "vqgan.yaml").write_text(yaml.safe_dump({"model": {"target": "x", "params": params}}))
    return folder / "vqgan.ckpt"


def save_whole_model(folder: Path, network: dict[str, Any] = NETWORK) -> ChameleonForConditionalGeneration:
    """A Chameleon checkpoint of `transformers`, image tokenizer inside."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vq = transformers_config(network).to_dict()
    config = ChameleonConfig(vocab_size=64, num_key_value_heads=2, vq_config=vq, vocabulary_map={"<image>": 5}, **sizes)
    model = ChameleonForConditionalGeneration(config)
    model.model.vqmodel.load_state_dict(without_decoder(original_tensors(network)))
    model.save_pretrained(folder)
    return model


def transformers_config(network: dict[str, Any]) -> ChameleonVQVAEConfig:
    return ChameleonVQVAEConfig(
        embed_dim=EMBED,
        num_embeddings=CODES,
        latent_channels=network["z_channels"],
        resolution=network["resolution"],
        base_channels=network["ch"],
        channel_multiplier=network["ch_mult"],
        num_res_blocks=network["num_res_blocks"],
        attn_resolutions=network["attn_resolutions"],
        attn_type=network.get("attn_type", "vanilla"),
    )


def without_decoder(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("decoder.")}


def plain_decode(tensors: dict[str, Tensor], network: dict[str, Any], codes: Tensor) -> Tensor:
    """The decoder as functions of named tensors."""

    def conv(name: str, x: Tensor) -> Tensor:
        weight = tensors[f"{name}.weight"]
        return F.conv2d(x, weight, tensors[f"{name}.bias"], padding=weight.shape[-1] // 2)

    def normed(name: str, x: Tensor) -> Tensor:
        groups = x.unflatten(1, (32, -1))
        mean = groups.mean((2, 3, 4), keepdim=True)
        variance = (groups - mean).square().mean((2, 3, 4), keepdim=True)
        scaled = ((groups - mean) / (variance + 1e-6).sqrt()).flatten(1, 2)
        return scaled * tensors[f"{name}.weight"][:, None, None] + tensors[f"{name}.bias"][:, None, None]

    def swish(x: Tensor) -> Tensor:
        return x / (1 + (-x).exp())

    def block(name: str, x: Tensor) -> Tensor:
        inner = conv(f"{name}.conv1", swish(normed(f"{name}.norm1", x)))
        inner = conv(f"{name}.conv2", swish(normed(f"{name}.norm2", inner)))
        return inner + (conv(f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in tensors else x)

    def attend(name: str, x: Tensor) -> Tensor:
        if f"{name}.q.weight" not in tensors:
            return x
        flat = normed(f"{name}.norm", x)
        q, k, v = (conv(f"{name}.{part}", flat).flatten(2) for part in "qkv")
        weights = (torch.einsum("ncq,nck->nqk", q, k) / q.shape[1] ** 0.5).softmax(-1)
        return x + conv(f"{name}.proj_out", torch.einsum("nqk,nck->ncq", weights, v).view_as(x))

    x = conv("post_quant_conv", tensors["quantize.embedding.weight"][codes].movedim(-1, 1))
    x = block("decoder.mid.block_1", conv("decoder.conv_in", x))
    x = block("decoder.mid.block_2", attend("decoder.mid.attn_1", x))
    for level in reversed(range(len(network["ch_mult"]))):
        for index in range(network["num_res_blocks"] + 1):
            name = f"decoder.up.{level}"
            x = attend(f"{name}.attn.{index}", block(f"{name}.block.{index}", x))
        if level > 0:
            x = conv(f"{name}.upsample.conv", x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    return conv("decoder.conv_out", swish(normed("decoder.norm_out", x)))
