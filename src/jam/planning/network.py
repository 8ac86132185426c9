"""The network of a recipe without weights, its parts and their trained parameters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import PretrainedConfig

from jam.checkpoints.configs import load_config
from jam.models import CrossConfig, CrossForCausalLM, JointModel, SingleDecoder
from jam.models.towers import decoder_config
from jam.training import TrainConfig
from jam.training.parts import choose_trained, part_of, prepare_layers
from jam.vocabulary import ParentRows, Vocabulary

NAMES = {"text": "text tower", "image": "image tower", "cross": "cross blocks", "tower": "decoder"}


@dataclass(frozen=True)
class Part:
    """Numbers of parameters of a part; tied parameters count once."""

    name: str
    parameters: int
    trained: int


def read_config(folder: str | Path) -> PretrainedConfig:
    """The config of a model folder; no other file is read.

    Raises:
        ValueError: there is no config.json, or no tower for the config.
    """
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"{folder}: there is no config.json; name the folder of a model or of its config alone")
    config = load_config(folder, "the model")
    return config if isinstance(config, CrossConfig) else decoder_config(config)


def build(config: PretrainedConfig, recipe: TrainConfig) -> JointModel:
    """A cross model or a single decoder on the default device, with `requires_grad` and recomputation of the recipe."""
    network: JointModel
    if isinstance(config, CrossConfig):
        network = CrossForCausalLM(config)
    else:  # the meaning of rows does not matter here
        texts = config.vocab_size - 2
        rows = ParentRows(texts, control_start=texts, control_size=2)
        network = SingleDecoder(config, Vocabulary(texts, 0, 0, sentinels=0), (0, 0), rows)
    choose_trained(network, recipe)
    prepare_layers(network, recipe)
    return network.train()


def parts(network: JointModel) -> list[Part]:
    """The parts of a network; embeddings and heads count with the readout, outside the layers."""
    counts: dict[str, list[int]] = {}
    layers = {id(parameter) for block in network.blocks for parameter in block.parameters()}
    for name, parameter in network.named_parameters():
        part = NAMES.get(part_of(name))
        if id(parameter) not in layers or part is None:
            part = "embeddings and readout"
        count = counts.setdefault(part, [0, 0])
        count[0] += parameter.numel()
        count[1] += parameter.numel() * parameter.requires_grad
    return [Part(name, *count) for name, count in counts.items()]
