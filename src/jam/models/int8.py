"""int8 weights: a quarter of the memory of float32, and of the bytes that a decode step reads."""

from __future__ import annotations

from itertools import chain

from torch import nn

from jam.models.cpu_kernel import Int8Linear
from jam.models.cross import CrossForCausalLM
from jam.models.single import SingleDecoder


def quantize(model: CrossForCausalLM | SingleDecoder) -> int:
    """Replace the linear layers in the towers' layers and the cross blocks by int8 ones, in place; their number.

    What reads and writes tokens (embeddings, the heads, whose rows they often share, a head of image codes that is a
    module) keeps its type, and so do norms. What comes out decodes, but it can be neither trained nor saved.
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
