"""Token shards and checkpoints of runs, for whoever reads or goes on with them."""

from __future__ import annotations

import random
from pathlib import Path

import jam
from fuzz.mutations import damage
from fuzz.outcomes import command
from fuzz.targets import Case, Target
from jam.data import Shards, Source
from jam.training import Trainer
from support import runs, tiny
from support.resealed import reseal_shards


class Runs(Target):
    name = "runs"

    def make(self, folder: Path) -> None:
        runs.write_corpora(folder / "data")
        tiny.model(folder / "made").save(self._folder(folder / "model"))
        model = jam.load(folder / "model", "cpu")
        config = runs.config(folder / "data", folder / "run", model=str(folder / "model"), checkpoint_every=2)
        steps = Trainer(model.joint, config, model.save).train()
        for _ in range(3):
            next(steps)
        steps.close()

    def _folder(self, path: Path) -> Path:
        path.mkdir()
        return path

    def case(self, rng: random.Random, place: Path) -> Case:
        if rng.random() < 0.5:
            return self.shards(rng, place)
        self.copy(place, "run")
        folder = rng.choice(sorted((place / "run" / "checkpoints").iterdir()))
        path, what = damage(rng.choice((place / "run", folder)), rng)
        names = (path.name, str(place / "run"))
        if rng.random() < 0.5:
            call = lambda: command("export", place / "run", "--out", place / "out", "--model", self.base / "model")
            return Case(f"export: {what}", call, names)
        return Case(f"resume: {what}", lambda: self.resume(place), names)

    def resume(self, place: Path) -> None:
        made = tiny.model(place / "fresh")
        config = runs.config(self.base / "data", place / "run", model=str(self.base / "model"), resume=True)
        list(Trainer(made.joint, config, made.save).train())

    def shards(self, rng: random.Random, place: Path) -> Case:
        folder = self.copy(place, "data/train")
        path, what = damage(folder, rng)
        if rng.random() < 0.6 and path.name != "shards.json" and path.is_file():
            reseal_shards(folder)

        def call() -> None:
            shards = Shards(folder, tiny.codec().vocabulary)
            shards.check()
            source = Source(shards, 1.0, 16)
            for index in range(len(source)):
                source[index]
            shards.origin(0)

        return Case(f"shards: {what}", call, (path.name, str(folder)))
