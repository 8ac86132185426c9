"""The network of a recipe without weights: what it consists of, and what of it is trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PretrainedConfig

from jam.models import CrossConfig, CrossForCausalLM, SingleDecoder
from jam.models.towers import Tower, decoder_config
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
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    return config if isinstance(config, CrossConfig) else decoder_config(config)


def build(config: PretrainedConfig, recipe: TrainConfig) -> Any:
    """A cross model or a single decoder, on the device of the context, with what the recipe trains and recomputes."""
    network: nn.Module
    if isinstance(config, CrossConfig):
        network = CrossForCausalLM(config)
    else:  # which rows are of what does not matter here
        vocabulary = Vocabulary(config.vocab_size, 0, 0, sentinels=0)
        network = SingleDecoder(config, vocabulary, (0, 0), ParentRows(config.vocab_size))
    choose_trained(network, recipe)
    prepare_layers(network, recipe)
    return network.train()


def parts(network: nn.Module) -> list[Part]:
    """Embeddings and heads are parts of their own: they lie with the readout, outside the layers."""
    counts: dict[str, list[int]] = {}
    layers = {id(parameter) for block in blocks(network) for parameter in block.parameters()}
    for name, parameter in network.named_parameters():
        part = NAMES.get(part_of(name))
        if id(parameter) not in layers or part is None:
            part = "embeddings and readout"
        count = counts.setdefault(part, [0, 0])
        count[0] += parameter.numel()
        count[1] += parameter.numel() * parameter.requires_grad
    return [Part(name, *count) for name, count in counts.items()]


def blocks(network: nn.Module) -> list[nn.Module]:
    """Layers of the towers, and cross blocks."""
    found: list[nn.Module] = []
    for module in network.modules():
        if isinstance(module, Tower):
            found += module.layers
    if isinstance(network, CrossForCausalLM):
        found += [*network.to_text, *network.to_image]
    return found


def readout_weights(network: nn.Module) -> list[torch.Tensor]:
    """Matrices that make logits."""
    if isinstance(network, CrossForCausalLM) and network.config.readout == "paper":
        return [(network.lm_head or network.embed_tokens).weight]
    towers = [module for module in network.modules() if isinstance(module, Tower)]
    return [tower.head.weight for tower in towers]
