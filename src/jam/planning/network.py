"""The network of a recipe without weights: what it consists of, and what of it is trained."""

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
    """Parameters of a part; tied ones once."""

    name: str
    parameters: int
    trained: int


def read_config(folder: str | Path) -> PretrainedConfig:
    """The config of a model folder, of which nothing else is read.

    Raises:
        ValueError: there is no config.json, or no tower for it.
    """
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"{folder}: there is no config.json; name the folder of a model or of its config alone")
    config = load_config(folder, "the model")
    return config if isinstance(config, CrossConfig) else decoder_config(config)


def build(config: PretrainedConfig, recipe: TrainConfig) -> JointModel:
    """A cross model or a single decoder, on the device of the context, with what the recipe trains and recomputes."""
    network: JointModel
    if isinstance(config, CrossConfig):
        network = CrossForCausalLM(config)
    else:  # which rows are of what does not matter here: all ids have one
        texts = config.vocab_size - 2
        rows = ParentRows(texts, control_start=texts, control_size=2)
        network = SingleDecoder(config, Vocabulary(texts, 0, 0, sentinels=0), (0, 0), rows)
    choose_trained(network, recipe)
    prepare_layers(network, recipe)
    return network.train()


def parts(network: JointModel) -> list[Part]:
    """Embeddings and heads are parts of their own: they lie with the readout, outside the layers."""
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
