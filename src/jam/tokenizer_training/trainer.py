"""The image tokenizer's trainer: `train_step`, and around it records, checkpoints and measurements."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Generator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jam.checkpoints import TensorInfo, new_folder, require_memory, write_json
from jam.checkpoints.devices import choose_device
from jam.checkpoints.folders import disk_full, is_disk_full
from jam.files import replacing, write_text
from jam.tokenizer_training.codebook import revive_codes, start_codes, usage
from jam.tokenizer_training.config import TokenizerConfig
from jam.tokenizer_training.losses import LPIPS, PatchDiscriminator, adaptive_weight, edge_loss, hinge_loss
from jam.tokenizer_training.network import build_tokenizer, decode, encode, quantise
from jam.tokenizer_training.pictures import Pictures, digest_of, find_pictures, leave_out
from jam.tokenizer_training.quality import psnr, reconstruction_grid, ssim
from jam.tokenizer_training.state import collect, load_tensors, restore, save_state
from jam.training.checkpoint import kept, read_state
from jam.training.distributed import World
from jam.training.interrupts import interrupts_wait, signals_noted
from jam.training.recipe import compare
from jam.training.records import VALIDATION, Records
from jam.training.run_folder import RunFolder
from jam.training.schedule import lr_factor

TOKENIZER = "image_tokenizer"
GRIDS = "reconstructions"
SHOWN = 32  # pictures of a grid
LOSSES = ("perceptual_loss", "commitment", "adversarial", "discriminator")  # a step may lack them
LATENTS = 2**16  # latents for the first codes, or 4 for each code if that is more
# Settings that do not change what is computed; `digest_of` compares the pictures of sources.
FREE = {"out", "sources", "validation", "allowed_media_path", "resume", "device", "workers", "cache_mb"}
FREE |= {"validate_every", "checkpoint_every"}
FREE |= {"keep_checkpoints", "max_unreadable"}


def require_room(config: TokenizerConfig, device: torch.device) -> None:
    """Raises ValueError when the recipe's networks are larger than the device's memory."""
    with torch.device("meta"):
        networks = build_tokenizer(config), PatchDiscriminator(config.discriminator_channels, config.resolution)
    infos = [TensorInfo.of(tensor) for network in networks for tensor in network.state_dict().values()]
    require_memory("the image tokenizer of this recipe", infos, torch.float32, device)


@dataclass(frozen=True)
class TokenizerStep:
    """Numbers of a step; losses are not weighted, and are None if the step does not use them."""

    step: int
    loss: float
    pixel_loss: float
    perceptual_loss: float | None
    commitment: float | None
    adversarial: float | None
    discriminator: float | None
    codes_used: int | None
    revived: int
    grad_norm: float
    lr: float
    pictures: int
    unreadable: int
    seconds: float


class TokenizerTrainer:
    """A trainer of a `diffusers.VQModel` by a recipe; `train` ends with the folder ``out/image_tokenizer``.

    Raises:
        ValueError: the networks do not fit into memory, or there are no pictures.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        self.config, self.folder = config, RunFolder(config, World(), TOKENIZER)
        self.run = self.folder.path
        self.device = torch.device(choose_device(config.device))
        found = find_pictures(config.sources, config.allowed_media_path)
        if config.validation:
            held = find_pictures(config.validation, config.allowed_media_path)
            keys = {picture.key for picture in held}
            learnt = [picture for picture in found if picture.key not in keys]
            held = leave_out(held, config.held_out, config.seed)[1] if len(held) > config.held_out else held
            if not learnt:
                raise ValueError("all pictures of sources are in validation too: none is left to learn from")
        else:
            learnt, held = leave_out(found, config.held_out, config.seed)
        settings: dict[str, Any] = {"cache_bytes": config.cache_mb * 2**20, "workers": config.workers}
        self.pictures = Pictures(
            learnt, config.resolution, config.seed, config.flip, max_unreadable=config.max_unreadable, **settings
        )
        self.held = Pictures(held, config.resolution, **settings)
        self.digest = digest_of(learnt)
        require_room(config, self.device)
        self.model = build_tokenizer(config).to(self.device, memory_format=torch.channels_last)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed + 1)
            self.discriminator = PatchDiscriminator(config.discriminator_channels, config.resolution).to(self.device)
        self.lpips = LPIPS(config.perceptual_files).to(self.device) if config.perceptual_files else None
        betas = (config.beta1, config.beta2)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.lr, betas=betas, fused=True)
        self.judge = torch.optim.Adam(self.discriminator.parameters(), lr=config.lr, betas=betas, fused=True)
        self.used_K = torch.zeros(config.codebook_size, dtype=torch.long)  # uses since the last revival
        self.step, self.steps = 0, config.steps
        self.report: dict[str, Any] = {}  # of the last validation
        self.validated: int | None = None  # step of the last validation
        self.owes_validation = False  # True if the run ended during the validation of the checkpoint's step
        self.records = Records(None, 0)

    def train_step(self) -> TokenizerStep:
        """Numbers of a step of the autoencoder and, from `adversarial_from` on, of the discriminator."""
        c, started = self.config, time.perf_counter()
        if self.step == c.codebook_from:
            self._start_codebook()
        lr = c.lr * lr_factor(self.step, c.steps, c.warmup_steps, c.schedule, c.min_lr_ratio)
        for optimizer in (self.optimizer, self.judge):
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = lr
        pixels = self.pictures.batch(self.step, c.batch_size)
        sums: dict[str, float] = {}
        used_K = self.used_K.clone()
        share = c.forward_size / c.batch_size
        for part in pixels.split(c.forward_size):
            losses, latents = self._forward_backward(part.to(self.device), share, used_K)
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0.0) + share * float(loss.detach())
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), c.max_grad_norm))
        if not math.isfinite(norm) or not all(map(math.isfinite, sums.values())):
            raise ValueError(
                f"after step {self.step}: losses {sums}, gradient norm {norm}; lower lr, or resume earlier"
            )
        revived, has_codes = 0, self.step >= c.codebook_from
        with interrupts_wait():  # the state of a checkpoint and the records change together
            self.optimizer.step()
            if self._is_adversarial:
                torch.nn.utils.clip_grad_norm_(self.discriminator.parameters(), c.max_grad_norm)
                self.judge.step()
            self.step += 1
            self.used_K = used_K
            used = int((used_K > 0).sum()) if has_codes else None
            if c.revive_every and self.step > c.codebook_from and self.step % c.revive_every == 0:
                if self.step < c.steps - c.revive_every:  # a revived code needs some steps of training
                    revived = revive_codes(
                        self.model, used_K.to(latents.device), latents, self.optimizer, self._generator(1)
                    )
                used_K.zero_()
            report = TokenizerStep(
                step=self.step,
                **{name: sums.get(name) for name in LOSSES},
                loss=sums["loss"],
                pixel_loss=sums["pixel_loss"],
                codes_used=used,
                revived=revived,
                grad_norm=norm,
                lr=lr,
                pictures=c.batch_size,
                unreadable=len(self.pictures.unreadable),
                seconds=time.perf_counter() - started,
            )
            self.records.write(asdict(report))
        return report

    @property
    def _is_adversarial(self) -> bool:
        return self.config.adversarial_weight > 0 and self.step >= self.config.adversarial_from

    def _forward_backward(self, pixels: Tensor, share: float, used_K: Tensor) -> tuple[dict[str, Any], Tensor]:
        """Losses and latents [positions, width] of a part of the batch.

        Adds gradients, multiplied by the part's `share`, and adds the uses of codes to `used_K`.
        """
        c = self.config
        pixels = pixels.to(memory_format=torch.channels_last)
        losses: dict[str, Any] = {}
        with self._autocast():
            latents = encode(self.model, pixels)
            quantised = latents
            if self.step >= c.codebook_from:
                quantised, losses["commitment"], codes = quantise(self.model, latents)
                used_K += torch.bincount(codes.cpu(), minlength=c.codebook_size)
            reconstruction = decode(self.model, quantised)
            difference = reconstruction.float() - pixels
            pixel_loss = c.l1_weight * difference.abs().mean() + c.l2_weight * difference.square().mean()
            near = pixel_loss
            if c.perceptual_weight:
                losses["perceptual_loss"] = (self.lpips or edge_loss)(reconstruction, pixels)
                near = near + c.perceptual_weight * losses["perceptual_loss"]
            loss = near + c.commitment_weight * losses.get("commitment", 0.0)
            if self._is_adversarial:
                self.discriminator.requires_grad_(False)
                adversarial = -self.discriminator(reconstruction).mean()
                weight = adaptive_weight(near, adversarial, self.model.decoder.conv_out.weight)
                loss = loss + c.adversarial_weight * weight * adversarial
                losses["adversarial"] = adversarial
        (share * loss).backward()
        if self._is_adversarial:
            self.discriminator.requires_grad_(True)
            with self._autocast():
                judged = hinge_loss(self.discriminator(pixels), self.discriminator(reconstruction.detach()))
            (share * judged).backward()
            losses["discriminator"] = judged
        losses |= {"loss": loss, "pixel_loss": pixel_loss}
        return losses, latents.detach().float().permute(0, 2, 3, 1).flatten(0, 2)

    @torch.no_grad()
    def _start_codebook(self) -> None:
        """Set the codes to centres of the latents of this step's pictures and of following steps' pictures."""
        wanted = max(4 * self.config.codebook_size, LATENTS)
        latents: list[Tensor] = []
        step = self.step
        while sum(map(len, latents)) < wanted and step < self.step + 256:
            for part in self.pictures.batch(step, self.config.batch_size).split(self.config.forward_size):
                latents.append(encode(self.model, part.to(self.device)).permute(0, 2, 3, 1).flatten(0, 2))
            step += 1
        start_codes(self.model, torch.cat(latents)[:wanted], self._generator(0))

    def _generator(self, purpose: int) -> torch.Generator:
        """A generator that depends only on seed, step and `purpose`."""
        return torch.Generator().manual_seed(self.config.seed * 1_000_003 + 2 * self.step + purpose)

    def _autocast(self) -> Any:
        is_half = self.config.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16) if is_half else nullcontext()

    @torch.no_grad()
    def measure(self) -> tuple[dict[str, Any], Any]:
        """PSNR, SSIM and use of the codebook on the held-out pictures, and a grid of the first of these pictures."""
        self.model.eval()
        pixels = self.held.first()
        counts = torch.zeros(self.config.codebook_size, dtype=torch.long)
        parts: list[Tensor] = []
        for part in pixels.split(self.config.forward_size):
            quantised, _, codes = quantise(self.model, encode(self.model, part.to(self.device)))
            counts += torch.bincount(codes.cpu(), minlength=len(counts))
            parts.append(decode(self.model, quantised).clamp(-1, 1).float().cpu())
        self.model.train()
        decoded = torch.cat(parts)
        report = {"psnr": float(psnr(pixels, decoded).mean()), "ssim": float(ssim(pixels, decoded).mean())}
        report |= usage(counts) | {"pictures": len(pixels), "tokens": int(counts.sum())}
        return report, reconstruction_grid(pixels[:SHOWN], decoded[:SHOWN])

    def train(self) -> Generator[TokenizerStep]:
        """The numbers of each step; after the last step, the tokenizer is in ``out/image_tokenizer``.

        Ctrl-C, SIGTERM and closing the iterator save a checkpoint, from which ``resume`` continues.

        Raises:
            SystemExit: after SIGTERM.
            ValueError: the run has ended, has another recipe, or is trained by another process; or the disk is full.
        """
        with self.folder.held():
            if (found := self.folder.last_checkpoint()) is not None:
                self._load(*found)
            self.folder.begin()
            (self.run / GRIDS).mkdir(exist_ok=True)
            yield from self._steps()
            with new_folder(self.run / TOKENIZER, kept=kept(self.run)) as folder:
                self.save_tokenizer(folder)

    def _steps(self) -> Generator[TokenizerStep]:
        self.model.train()
        c = self.config
        self.records = Records(self.run, self.step, validates=self.owes_validation or self.step == c.steps)
        try:
            with signals_noted(signal.SIGTERM) as received:
                if self.owes_validation:
                    self._validate()
                while self.step < c.steps:
                    yield self.train_step()
                    if self._validation_is_due():
                        self._validate()
                    if self._is_due(c.checkpoint_every):
                        self.save_checkpoint()
                    if received:
                        raise SystemExit(128 + signal.SIGTERM)
            self.save_checkpoint()
            self._validate()
        except (KeyboardInterrupt, GeneratorExit, SystemExit):
            self.save_checkpoint()
            raise
        except OSError as error:
            if is_disk_full(error):
                raise disk_full(self.run, None, kept(self.run)) from error
            raise
        finally:
            self.records.close()
            self.pictures.close()
            self.held.close()
            self._list_unreadable()

    def save_tokenizer(self, folder: Path) -> None:
        """Save a `VQModel` folder; its ``preprocessor_config.json`` has the pictures' size."""
        self.model.eval().to(memory_format=torch.contiguous_format).save_pretrained(folder)
        side = self.config.resolution
        write_json(folder / "preprocessor_config.json", {"size": {"height": side, "width": side}})

    def _is_due(self, every: int) -> bool:
        return bool(every) and self.step < self.config.steps and self.step % every == 0

    def _validation_is_due(self) -> bool:
        return self._is_due(self.config.validate_every) and self.step > self.config.codebook_from  # else: no codes yet

    def save_checkpoint(self) -> Path:
        """Write ``checkpoints/step-NNNNNN``; earlier checkpoints stay until the new checkpoint is whole."""
        tensors = collect("model", self.model, self.optimizer)
        tensors |= collect("discriminator", self.discriminator, self.judge) | {"used": self.used_K}
        owes = self._validation_is_due() and self.validated != self.step
        state = {"settings": self._settings(), "owes": owes}
        return save_state(self.run, self.step, tensors, state, self.config.keep_checkpoints)

    def load_checkpoint(self, checkpoint: Path) -> None:
        """Set weights, moments and step. Raises ValueError, with all differences, if the recipe differs."""
        self._load(checkpoint, read_state(checkpoint))

    def _load(self, checkpoint: Path, state: dict[str, Any]) -> None:
        compare(checkpoint, state["settings"], self._settings())
        tensors = load_tensors(checkpoint)
        restore("model", tensors, self.model, self.optimizer)
        restore("discriminator", tensors, self.discriminator, self.judge)
        self.used_K.copy_(tensors["used"])
        self.step = state["step"]
        self.owes_validation = state.get("owes", False)

    def _settings(self) -> dict[str, Any]:
        """Settings that a resumed run must share with the checkpoint."""
        own = {key: value for key, value in asdict(self.config).items() if key not in FREE}
        pictures = {
            "number of pictures": len(self.pictures),
            "weights of pictures": sorted({float(picture.weight) for picture in self.pictures.pictures}),
            "digest of names, sizes and weights of pictures": self.digest,
        }
        return own | pictures

    def _validate(self) -> None:
        report, grid = self.measure()
        with replacing(self.run / GRIDS / f"step-{self.step:06d}.png") as partial:
            grid.save(partial, format="PNG")
        with interrupts_wait():
            self.report, self.validated = report, self.step
            self.records.write({"step": self.step} | {f"{VALIDATION}{key}": value for key, value in report.items()})

    def _list_unreadable(self) -> None:
        reasons = self.pictures.unreadable | self.held.unreadable
        if reasons:
            lines = (json.dumps({"picture": place, "reason": reason}) + "\n" for place, reason in reasons.items())
            write_text(self.run / "unreadable.jsonl", "".join(lines))
