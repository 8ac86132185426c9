"""int8 weights: a quarter of float32's memory, and of the bytes that a decode step reads."""

from __future__ import annotations

from itertools import chain

from torch import nn

from jam.models.cpu_kernel import Int8Linear
from jam.models.cross import CrossForCausalLM
from jam.models.single import SingleDecoder


def quantize(model: CrossForCausalLM | SingleDecoder) -> int:
    """Replace linear layers of the towers' layers and cross blocks by int8 layers, in place, and return their number.

    Embeddings, heads, image heads and norms keep their type. The model can decode, but cannot be trained or saved.
    """
    replaced = 0
    for layer in chain.from_iterable(model.layer_pairs()):
        for parent in list(layer.modules()):
            for name, linear in list(parent.named_children()):
                if isinstance(linear, nn.Linear):
                    setattr(parent, name, Int8Linear(linear))
                    replaced += 1
    return replaced


def is_quantized(model: nn.Module) -> bool:
    return any(isinstance(layer, Int8Linear) for layer in model.modules())
