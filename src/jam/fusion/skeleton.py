"""The names, shapes and roles of a decoder's tensors, from its config alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jam.models.towers import family_of

if TYPE_CHECKING:
    from torch import nn

Shape = tuple[int, ...]


def tensor_shapes(model: nn.Module) -> dict[str, Shape]:
    """Shapes of all tensors in a checkpoint of `model`; a tied tensor appears once, under its first name."""
    first: dict[int, tuple[str, Shape]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        first.setdefault(id(tensor), (name, tuple(tensor.shape)))
    return dict(first.values())


class Skeleton:
    """Names, shapes and roles of a decoder's tensors.

    Attributes:
        architecture: name of the decoder's class.
        home: the module of this class.
        shapes: shape of every tensor, tied tensors once.
        tied_names: second names of tied tensors.
        vocabulary_tensors: tensors whose rows are token ids: `input_table` and `output_table`.
        input_table, output_table: input embedding and output head; one name if they are tied.
        position_table: the learned position table, or None.
        norm: prefix of the final norm's tensors.
        prefix: prefix of all tensors but the head.

    Raises:
        ValueError: no family of `jam.models.towers` has this architecture.
    """

    def __init__(self, settings: Any) -> None:
        """`settings`: `Settings`, or a config of `transformers`."""
        family = family_of(settings)
        self.architecture, self.home = family.architecture, family.home
        head = f"{family.head}.weight"
        shapes = family.shapes(settings)
        names = {head}
        if shapes is None:
            import torch

            with torch.device("meta"):
                model = family.model_class(settings)
            shapes, names = tensor_shapes(model), set(model.state_dict())
        self.shapes = shapes
        self.tied_names = frozenset(names - shapes.keys())
        self.input_table = f"{family.embedding}.weight"
        self.output_table = self.input_table if head in self.tied_names else head
        self.vocabulary_tensors = frozenset((self.input_table, self.output_table))
        self.position_table = f"{family.positions}.weight" if family.positions else None
        self.norm = f"{family.norm}."
        self.prefix = f"{family.embedding.partition('.')[0]}."
