"""The image tokenizer of Chameleon, Anole, Liquid and Lumina-mGPT, whole: a VQGAN of the CompVis shape.

Encoder and quantizer come from `transformers.ChameleonVQVAE`, which cannot decode; the decoder is here, built of the
same residual and attention blocks. All tensors have the names of the original ``vqgan.ckpt``.

Shapes: N pictures, C channels, H x W pixels, h x w codes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ChameleonVQVAE, ChameleonVQVAEConfig
from transformers.models.chameleon.modeling_chameleon import ChameleonVQVAEEncoderAttnBlock as AttentionBlock
from transformers.models.chameleon.modeling_chameleon import ChameleonVQVAEEncoderResnetBlock as ResidualBlock


class ChameleonVQGANConfig(ChameleonVQVAEConfig):
    """The config of `transformers`, and what a decoder adds.

    Args:
        out_channels: channels of decoded pictures.
        has_decoder: False for weights out of a checkpoint of `transformers`, which only encode.
    """

    model_type = "jam_chameleon_vqgan"

    out_channels: int = 3
    has_decoder: bool = True


class Upsample(nn.Module):
    """Twice the height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.conv(F.interpolate(hidden, scale_factor=2.0, mode="nearest"))


class UpLevel(nn.Module):
    """The decoder's blocks at one resolution: one more than the encoder has there."""

    def __init__(
        self, config: ChameleonVQGANConfig, in_channels: int, out_channels: int, attends: bool, upsamples: bool
    ) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * config.num_res_blocks
        self.block = nn.ModuleList(ResidualBlock(config, width, out_channels) for width in widths)
        self.attn = nn.ModuleList(AttentionBlock(out_channels) if attends else nn.Identity() for _ in widths)
        self.upsample = Upsample(out_channels) if upsamples else nn.Identity()

    def forward(self, hidden: Tensor) -> Tensor:
        for block, attention in zip(self.block, self.attn, strict=True):
            hidden = attention(block(hidden))
        return self.upsample(hidden)


class Decoder(nn.Module):
    """Latents ``[N, latent_channels, h, w]`` to pixels ``[N, out_channels, H, W]``."""

    def __init__(self, config: ChameleonVQGANConfig) -> None:
        super().__init__()
        widths = [config.base_channels * factor for factor in config.channel_multiplier]
        levels, width = len(widths), widths[-1]
        attends = config.attn_type == "vanilla"
        self.conv_in = nn.Conv2d(config.latent_channels, width, kernel_size=3, padding=1)
        self.mid = nn.ModuleDict(
            {
                "block_1": ResidualBlock(config, width, width),
                "attn_1": AttentionBlock(width) if attends else nn.Identity(),
                "block_2": ResidualBlock(config, width, width),
            }
        )
        self.up = nn.ModuleList(
            UpLevel(
                config,
                in_channels=widths[min(level + 1, levels - 1)],
                out_channels=widths[level],
                attends=attends and config.resolution // 2**level in (config.attn_resolutions or ()),
                upsamples=level > 0,
            )
            for level in range(levels)
        )
        self.norm_out = nn.GroupNorm(num_groups=32, num_channels=widths[0], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, kernel_size=3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        hidden = self.conv_in(latents)
        for block in self.mid.values():
            hidden = block(hidden)
        for level in reversed(self.up):  # level 0 has the full resolution
            hidden = level(hidden)
        return self.conv_out(F.silu(self.norm_out(hidden)))


class ChameleonVQGAN(ChameleonVQVAE):
    """`ChameleonVQVAE` with a decoder; `decoder` is None where the weights have none."""

    config_class = ChameleonVQGANConfig

    def __init__(self, config: ChameleonVQGANConfig) -> None:
        super().__init__(config)
        self.decoder = Decoder(config) if config.has_decoder else None
        self.post_init()

    def decode(self, codes: Tensor) -> Tensor:
        """Codes ``[N, h, w]`` to pixels ``[N, C, H, W]``, of about -1 .. 1.

        Raises:
            ValueError: these weights have no decoder.
        """
        if self.decoder is None:
            raise ValueError(
                "this image tokenizer only encodes: it was made from a checkpoint of `transformers`, which leaves the "
                "decoder out; make one with a decoder by `jam convert-tokenizer vqgan.ckpt`, from the original file of "
                "Chameleon, Anole, Liquid or Lumina-mGPT"
            )
        latents = self.quantize.embedding(codes).permute(0, 3, 1, 2)
        return self.decoder(self.post_quant_conv(latents))
