"""Similarity of pictures and reconstructions, and a grid that shows both."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2
GAP = 2


def psnr(pictures: Tensor, others: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each picture, ``[N, 3, R, R]`` in -1 .. 1 to ``[N]``."""
    squared = ((pictures - others) / 2).square().mean(dim=(1, 2, 3))
    return -10 * torch.log10(squared.clamp(min=1e-10))


def ssim(pictures: Tensor, others: Tensor) -> Tensor:
    """Structural similarity of each picture (Wang et al., 2004), ``[N, 3, R, R]`` in -1 .. 1 to ``[N]``.

    Mean over colour channels and Gaussian windows of 11 pixels (fewer for smaller pictures) inside the picture.
    """
    size = min(WINDOW, pictures.shape[-1])
    offsets = torch.arange(size, dtype=pictures.dtype, device=pictures.device) - (size - 1) / 2
    line = torch.exp(-offsets.square() / (2 * SIGMA**2))
    kernel = (line / line.sum()).expand(3, 1, size)

    def blurred(values: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(values, kernel[:, :, :, None], groups=3), kernel[:, :, None, :], groups=3)

    x, y = (pictures + 1) / 2, (others + 1) / 2
    mean_x, mean_y = blurred(x), blurred(y)
    var_x, var_y = blurred(x * x) - mean_x**2, blurred(y * y) - mean_y**2
    covariance = blurred(x * y) - mean_x * mean_y
    map_ = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
    map_ = map_ / ((mean_x**2 + mean_y**2 + C1) * (var_x + var_y + C2))
    return map_.mean(dim=(1, 2, 3))


def reconstruction_grid(pictures: Tensor, others: Tensor, columns: int = 8) -> Image.Image:
    """An image of pictures with their reconstructions below, ``[N, 3, R, R]`` in -1 .. 1, on white."""
    side = pictures.shape[-1]
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    width, height = columns * (side + GAP) + GAP, rows * (2 * side + 2 * GAP) + GAP
    sheet = np.full((height, width, 3), 255, dtype=np.uint8)
    for index, pair in enumerate(zip(to_bytes(pictures), to_bytes(others), strict=True)):
        row, column = divmod(index, columns)
        left = GAP + column * (side + GAP)
        for below, picture in enumerate(pair):
            top = GAP + row * (2 * side + 2 * GAP) + below * side
            sheet[top : top + side, left : left + side] = picture
    return Image.fromarray(sheet)


def to_bytes(pixels: Tensor) -> np.ndarray:
    """``[N, 3, R, R]`` in -1 .. 1 to uint8 ``[N, R, R, 3]``."""
    return ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
