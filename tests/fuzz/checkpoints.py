"""Checkpoint files: of fused folders, of parents, of image tokenizers; each is read, or named in one line."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

import jam
from fuzz.mutations import damage
from fuzz.outcomes import command
from fuzz.targets import Case, Target
from jam.codec import describe_image_tokenizer, load_image_tokenizer, load_tokenizer
from jam.codec.chameleon_convert import convert_chameleon
from jam.codec.chameleon_vqgan import ChameleonVQGAN, ChameleonVQGANConfig
from jam.fusion import FuseConfig
from jam.fusion import fuse as fuse_parents
from jam.generation import GenerationSettings
from support import fusion_parents, tiny
from support.resealed import reseal


class Checkpoints(Target):
    name = "checkpoints"

    def make(self, folder: Path) -> None:
        made = tiny.model(folder / "made")
        (folder / "fused").mkdir()
        made.save(folder / "fused")
        shutil.rmtree(folder / "made")
        fusion_parents.save_pair(folder / "pair", fusion_parents.opt_config)
        fusion_parents.save_pair(folder / "llamas", fusion_parents.llama_config)
        fusion_parents.save_pair(folder / "older", fusion_parents.llama_config)
        for role in ("text", "image"):
            to_bin(folder / "older" / role, shards=2 if role == "image" else 1)
        tiny.save_vq(folder / "vq")
        tiny.text_tokenizer().save_pretrained(folder / "words")
        save_original(folder / "original")

    def case(self, rng: random.Random, place: Path) -> Case:
        makers = (self.fused, self.fused, self.parents, self.parents, self.images, self.words, self.original)
        return rng.choice(makers)(rng, place)

    def fused(self, rng: random.Random, place: Path) -> Case:
        """Through `jam.load`, or a command; behind the checksums in three cases of four."""
        folder = self.copy(place, "fused")
        path, what = damage(folder, rng)
        if rng.random() < 0.75 and path.name != "manifest.json":
            reseal(folder)
        call: Callable[[], object] = lambda: open_model(folder)
        if rng.random() < 0.2:
            name = rng.choice(("eval", "generate", "verify"))
            (place / "one.jsonl").write_text('{"content": "a"}\n')
            more = {"eval": [place / "one.jsonl"], "generate": ["a", "--max-new-tokens", "3"], "verify": []}[name]
            call = lambda: command(name, folder, *more, "--device", "cpu")
            what = f"jam {name}: {what}"
        return Case(what, call, (path.name, str(folder)))

    def parents(self, rng: random.Random, place: Path) -> Case:
        """Through `jam fuse`, or its plan."""
        pair = self.copy(place, rng.choice(("pair", "llamas", "older")))
        path, what = damage(pair, rng)
        plan = rng.random() < 0.5
        config = FuseConfig(str(pair / "text"), str(pair / "image"), str(place / "out"), sentinels=3, plan=plan)

        def call() -> None:
            fuse_parents(config, fusion_parents.IMAGE_TOKENIZER)

        return Case(f"{'plan' if plan else 'fuse'} {path.parent.name}/{what}", call, (path.name, str(path.parent)))

    def images(self, rng: random.Random, place: Path) -> Case:
        folder = self.copy(place, "vq")
        path, what = damage(folder, rng)

        def call() -> None:
            describe_image_tokenizer(folder)
            load_image_tokenizer(folder)

        return Case(f"image tokenizer: {what}", call, (path.name, str(folder)))

    def words(self, rng: random.Random, place: Path) -> Case:
        folder = self.copy(place, "words")
        path, what = damage(folder, rng)
        return Case(f"tokenizer: {what}", lambda: load_tokenizer(folder)("a"), (path.name, str(folder)))

    def original(self, rng: random.Random, place: Path) -> Case:
        folder = self.copy(place, "original")
        path, what = damage(folder, rng)
        call = lambda: convert_chameleon(folder / "vqgan.ckpt", place / "out")
        return Case(f"vqgan: {what}", call, (path.name, str(folder)))


def open_model(folder: Path) -> None:
    model = jam.load(folder, "cpu")
    model.generate("a", max_new_tokens=3)
    assert isinstance(model.settings, GenerationSettings)


def to_bin(folder: Path, shards: int) -> None:
    """The weights in the older format, perhaps with an index."""
    import json

    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if shards == 1:
        torch.save(tensors, folder / "pytorch_model.bin")
        return
    names = sorted(tensors)
    files = {f"pytorch_model-{number + 1:05d}-of-{shards:05d}.bin": names[number::shards] for number in range(shards)}
    for file, held in files.items():
        torch.save({name: tensors[name] for name in held}, folder / file)
    weight_map = {name: file for file, held in files.items() for name in held}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def save_original(folder: Path) -> None:
    """A vqgan.ckpt with its vqgan.yaml, as Chameleon's repository has them."""
    folder.mkdir()
    config = ChameleonVQGANConfig(
        base_channels=32,
        channel_multiplier=[1, 2],
        num_res_blocks=1,
        resolution=16,
        latent_channels=8,
        num_embeddings=12,
        embed_dim=8,
    )
    torch.manual_seed(0)
    torch.save({"state_dict": ChameleonVQGAN(config).state_dict()}, folder / "vqgan.ckpt")
    network = {"ch": 32, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [], "in_channels": 3, "out_ch": 3}
    network |= {"resolution": 16, "z_channels": 8, "double_z": False, "dropout": 0.0}
    params = {"embed_dim": 8, "n_embed": 12, "ddconfig": network}
    (folder / "vqgan.yaml").write_text(yaml.safe_dump({"model": {"params": params}}))
