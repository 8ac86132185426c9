"""Settings of an image tokenizer's training; a recipe has them as YAML."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from jam.checked import check_fields
from jam.checkpoints.configs import too_large


@dataclass
class PictureSource:
    """A source of pictures.

    Args:
        path: a folder (with its subfolders), a picture, or documents (JSON lines).
        weight: relative frequency of each picture of this source.
    """

    path: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.weight <= 0:
            raise ValueError(f"the weight of the source {self.path} is {self.weight}; it must be positive")


@dataclass
class TokenizerConfig:
    """Settings of `jam train-tokenizer`.

    Args:
        out: folder of the run: checkpoints, records, reconstructions and at last `image_tokenizer/`.
        sources: pictures to learn from: FOLDER[:WEIGHT] ...; in a recipe a list, [{path: FOLDER, weight: 1}].
        validation: sources of pictures to measure and not to learn; none: `held_out` pictures of `sources`.
        held_out: number of pictures to measure.
        resolution: pixels of a picture's side.
        patch: side of the pixel blocks that the network reads as one position (space to depth); 1: single pixels.
        channels: width of every level; each level but the last halves the side.
        layers_per_block: residual blocks of a level.
        attention: attention in the last level and the middle blocks.
        latent_channels: width of a latent.
        code_channels: width of a code.
        codebook_size: number of codes.
        norm_groups: groups of the group norms.
        steps: optimiser steps.
        batch_size: pictures of a step.
        micro_batch_size: pictures in one forward; default: all.
        lr: peak learning rate, of the discriminator too.
        warmup_steps: steps of a linear warm-up from 0.
        schedule: schedule of the learning rate after the warm-up.
        min_lr_ratio: learning rate at the end, relative to the peak.
        beta1: Adam's decay of the mean of gradients.
        beta2: Adam's decay of the mean of squared gradients.
        max_grad_norm: gradients are clipped to this norm.
        codebook_from: number of first steps without a codebook; the first codes come from latents after these steps.
        revive_every: steps between moves of unused codes to latents; 0: never.
        l1_weight: weight of the mean absolute difference of pixels.
        l2_weight: weight of the mean squared difference of pixels.
        perceptual_weight: weight of the perceptual loss.
        perceptual_files: files of VGG16's tensors and of LPIPS's linear layers (.pth or .safetensors); none: the loss
            compares edges at several scales.
        commitment_weight: weight of the quantiser's loss (codebook loss + 0.25 commitment loss).
        adversarial_weight: weight of the adversarial loss, relative to the gradient of the other losses; 0: no
            discriminator.
        adversarial_from: step from which the discriminator takes part.
        discriminator_channels: width of the discriminator's first layer.
        flip: mirror half of the pictures.
        precision: "bf16" runs matrix products under autocast.
        validate_every: steps between measurements; 0: only at the end.
        checkpoint_every: steps between checkpoints; 0: only at the end.
        keep_checkpoints: number of last checkpoints to keep; 0: all.
        cache_mb: MB of decoded pictures in memory.
        workers: threads that read pictures.
        allowed_media_path: another folder that may hold pictures of documents (/: any); default: only their folder.
        max_unreadable: largest share (0 to 1) of unreadable pictures; the run stops above it.
        resume: resume from the last checkpoint in `out`.
        seed: seed of weights, order and crops.
        device: cpu, cuda, cuda:1, ...; default: a GPU if there is one.
    """

    out: str
    sources: list[PictureSource]
    validation: list[PictureSource] = field(default_factory=list)
    held_out: int = 256
    resolution: int = 256
    patch: int = 1
    channels: list[int] = field(default_factory=lambda: [128, 256, 256, 512])
    layers_per_block: int = 2
    attention: bool = True
    latent_channels: int = 256
    code_channels: int = 256
    codebook_size: int = 8192
    norm_groups: int = 32
    steps: int = 250_000
    batch_size: int = 64
    micro_batch_size: int | None = None
    lr: float = 1e-4
    warmup_steps: int = 1000
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    min_lr_ratio: float = 0.1
    beta1: float = 0.5
    beta2: float = 0.9
    max_grad_norm: float = 1.0
    codebook_from: int = 0
    revive_every: int = 200
    l1_weight: float = 1.0
    l2_weight: float = 0.0
    perceptual_weight: float = 1.0
    perceptual_files: list[str] = field(default_factory=list)
    commitment_weight: float = 1.0
    adversarial_weight: float = 0.8
    adversarial_from: int = 50_000
    discriminator_channels: int = 64
    flip: bool = True
    precision: Literal["fp32", "bf16"] = "fp32"
    validate_every: int = 0
    checkpoint_every: int = 0
    keep_checkpoints: int = 2
    cache_mb: int = 1024
    workers: int = 2
    allowed_media_path: str | None = None
    max_unreadable: float = 0.1
    resume: bool = False
    seed: int = 0
    device: str | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.sources:
            raise ValueError("sources is empty: name at least one folder of pictures or file of documents")
        if not self.channels or min(self.channels) <= 0:
            raise ValueError(f"channels is {self.channels}; give the width of every level, like [128, 256, 256, 512]")
        positive: tuple[str, ...] = (
            "held_out",
            "resolution",
            "patch",
            "layers_per_block",
            "latent_channels",
            "code_channels",
        )
        positive += ("codebook_size", "norm_groups", "steps", "batch_size", "micro_batch_size", "lr", "max_grad_norm")
        for name in (*positive, "discriminator_channels", "workers"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}; it must be positive")
        for name in ("warmup_steps", "codebook_from", "revive_every", "adversarial_from", "validate_every", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        if problem := too_large(vars(self)):
            raise ValueError(problem)
        if self.resolution % self.factor:
            raise ValueError(
                f"resolution is {self.resolution}, and {self.patch} (patch) x 2 for each of {len(self.channels) - 1} "
                f"halvings is {self.factor} pixels a code: choose a multiple of {self.factor}"
            )
        odd = [width for width in self.channels if width % self.norm_groups]
        if odd:
            raise ValueError(f"channels {odd} cannot be divided into {self.norm_groups} norm_groups; choose multiples")
        if self.codebook_from >= self.steps:
            raise ValueError(
                f"codebook_from is {self.codebook_from}, the run has {self.steps} steps: no code would be learnt"
            )
        if self.batch_size % self.forward_size:
            raise ValueError(f"batch_size {self.batch_size} is no multiple of micro_batch_size {self.micro_batch_size}")

    @property
    def factor(self) -> int:
        """Side of a code in pixels (the f of "f8")."""
        return self.patch * 2 ** (len(self.channels) - 1)

    @property
    def grid(self) -> int:
        """Side of a picture in codes."""
        return self.resolution // self.factor

    @property
    def forward_size(self) -> int:
        return self.micro_batch_size or self.batch_size
