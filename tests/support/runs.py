"""Small training runs, for tests of the trainer."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed.checkpoint as dcp

from jam.data import prepare
from jam.training import DataSource, TrainConfig, Trainer
from support import tiny


def write_corpora(folder):
    """Token shards ``train`` and ``held``: documents to learn from, and to validate on."""
    codec = tiny.codec()
    rng = np.random.default_rng(0)
    for name, count in (("train", 90), ("held", 12)):
        documents = [tiny.random_document(rng) for _ in range(2 * count)]
        short = [document for document in documents if codec.encode(document).main_start < 40]
        list(prepare(short[:count], codec, folder / name))
    return folder


def config(shards, out, **changes) -> TrainConfig:
    values = {"model": "", "out": str(out), "sources": [DataSource(str(shards / "train"))], "steps": 6, "lr": 3e-3}
    values |= {"batch_tokens": 4 * 64, "micro_batch_size": 2, "warmup_steps": 2, "validation": [str(shards / "held")]}
    return TrainConfig(**(values | changes))


def trainer(shards, out, kind="cross", parent=None, world=None, **changes) -> Trainer:
    """A trainer of a fresh model, always with the same weights."""
    folder = out.parent / f"{out.name}-model-{world.rank if world else 0}"
    made = tiny.model(folder, kind, **(parent or {}))
    return Trainer(made.joint, config(shards, out, **changes), made.save, world=world)


def stored(checkpoint) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint of a run."""
    reader = dcp.FileSystemReader(checkpoint)
    infos = reader.read_metadata().state_dict_metadata
    tensors = {name: torch.empty(info.size, dtype=info.properties.dtype) for name, info in infos.items()}
    dcp.load(tensors, storage_reader=reader, no_dist=True)
    return tensors


def weights(made: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in made.model.state_dict().items()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
