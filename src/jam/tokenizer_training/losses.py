"""Losses between pictures and reconstructions, and the discriminator.

Pixels are ``[N, 3, R, R]`` in -1 .. 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from jam.checkpoints.plain import load_plain
from jam.files import reading

SCALES = 3  # of `edge_loss`
# Widths of VGG16's convolutions up to the last layer that LPIPS reads; a max-pool comes before each new group.
VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
MEAN, STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of LPIPS, for pixels in -1 .. 1


def edge_loss(reconstruction: Tensor, pictures: Tensor) -> Tensor:
    """Mean absolute difference of the edges (differences of neighbouring pixels) of pictures halved 0, 1, 2 times.

    This loss replaces the perceptual loss without weights of another network: blur costs more than in the mean
    difference of pixels.
    """
    loss = reconstruction.new_zeros(())
    difference = reconstruction - pictures
    for scale in range(SCALES):
        if scale:
            difference = F.avg_pool2d(difference, 2)
        loss = loss + (difference[..., 1:, :] - difference[..., :-1, :]).abs().mean()
        loss = loss + (difference[..., 1:] - difference[..., :-1]).abs().mean()
    return loss


class LPIPS(nn.Module):
    """Learned perceptual similarity (Zhang et al., 2018, eq. 1) with VGG16, from files of its tensors.

    Args:
        files: files as published, with the tensors ``features.N.weight|bias`` (VGG16) and ``linI.model.1.weight`` or
            ``linI.weight`` (LPIPS).

    Raises:
        ValueError: a tensor is missing.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, files: Sequence[str]) -> None:
        super().__init__()
        tensors: dict[str, Tensor] = {}
        for file in files:
            if not Path(file).is_file():
                raise ValueError(f"perceptual_files: {file} does not exist")
            with reading(file):
                tensors |= load_file(file) if file.endswith(".safetensors") else load_plain(Path(file))
        self.groups, self.lines, width, index = nn.ModuleList(), nn.ParameterList(), 3, 0
        for number, widths in enumerate(VGG16):
            layers: list[nn.Module] = [nn.MaxPool2d(2)] if number else []
            index += bool(number)
            for following in widths:
                layer = nn.Conv2d(width, following, 3, padding=1)
                for name in ("weight", "bias"):
                    getattr(layer, name).data = _tensor(tensors, f"features.{index}.{name}")
                layers += [layer, nn.ReLU()]
                width, index = following, index + 2
            self.groups.append(nn.Sequential(*layers))
            self.lines.append(_tensor(tensors, f"lin{number}.model.1.weight", f"lin{number}.weight"))
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(STD)[:, None, None])
        self.requires_grad_(False)

    def forward(self, reconstruction: Tensor, pictures: Tensor) -> Tensor:
        features = (torch.cat([reconstruction, pictures]) - self.mean) / self.std
        loss = reconstruction.new_zeros(())
        for group, line in zip(self.groups, self.lines, strict=True):
            features = group(features)
            first, second = F.normalize(features, dim=1, eps=1e-10).chunk(2)
            loss = loss + F.conv2d((first - second).square(), line).mean()
        return loss


def _tensor(tensors: dict[str, Tensor], *names: str) -> Tensor:
    found = next((tensors[name] for name in names if name in tensors), None)
    if found is None:
        raise ValueError(
            f"perceptual_files: no tensor {names[0]}; give VGG16 (features.*) and LPIPS's linear layers (lin*)"
        )
    return found


class PatchDiscriminator(nn.Module):
    """Discriminator of overlapping patches (Isola et al., 2017): ``[N, 3, R, R]`` to logits ``[N, 1, r, r]``.

    A patch is 70 pixels wide, or less in pictures of less than 32 pixels.
    """

    def __init__(self, channels: int, resolution: int) -> None:
        super().__init__()
        layers = max(1, min(3, resolution.bit_length() - 3))
        parts: list[nn.Module] = [nn.Conv2d(3, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        width = channels
        for layer in range(1, layers + 1):
            following, stride = channels * min(2**layer, 8), 2 if layer < layers else 1
            parts.append(nn.Conv2d(width, following, 4, stride=stride, padding=1, bias=False))
            parts += [nn.GroupNorm(1, following), nn.LeakyReLU(0.2)]
            width = following
        self.parts = nn.Sequential(*parts, nn.Conv2d(width, 1, 4, padding=1))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.parts(pixels)


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of the discriminator's logits."""
    return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2


def adaptive_weight(loss: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """Weight of the adversarial loss: ratio of both gradients' norms at the decoder's last layer (VQGAN, eq. 7)."""
    gradients = [torch.autograd.grad(each, last_layer, retain_graph=True)[0].norm() for each in (loss, adversarial)]
    return (gradients[0] / (gradients[1] + 1e-4)).clamp(max=1e4).detach()
