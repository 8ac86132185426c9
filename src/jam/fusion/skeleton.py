"""A plain decoder without weights: the names, shapes and roles of its tensors, from its config alone."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from jam.models.towers import family_of

Shape = tuple[int, ...]


def tensor_shapes(model: nn.Module) -> dict[str, Shape]:
    """Shapes of everything a checkpoint of `model` holds; a tied tensor appears once, under its first name."""
    first: dict[int, tuple[str, Shape]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        first.setdefault(id(tensor), (name, tuple(tensor.shape)))
    return dict(first.values())


class Skeleton:
    """A decoder on the meta device, and what its tensors are for.

    Attributes:
        shapes: shape of every tensor, tied ones once.
        tied_names: second names of tied tensors.
        vocabulary_tensors: tensors whose rows are token ids (input embedding, output head).
        input_table, output_table: those two; the same name when they are tied.
        position_table: the learned position table, if there is one.
        norm: prefix of the final norm's tensors.

    Raises:
        ValueError: no family of `jam.models.towers` knows this architecture.
    """

    def __init__(self, config: PretrainedConfig) -> None:
        family = family_of(config)
        with torch.device("meta"):
            self.model: PreTrainedModel = family.model_class(config)
        self.shapes = tensor_shapes(self.model)
        self.tied_names = frozenset(self.model.state_dict()) - self.shapes.keys()
        self.input_table = f"{family.embedding}.weight"
        head = f"{family.head}.weight"
        self.output_table = self.input_table if head in self.tied_names else head
        self.vocabulary_tensors = frozenset((self.input_table, self.output_table))
        self.position_table = f"{family.positions}.weight" if family.positions else None
        self.norm = f"{family.norm}."
