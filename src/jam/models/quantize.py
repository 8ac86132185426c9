"""int8 weights: a quarter of the memory of float32, and of the bytes that a decode step reads."""

from __future__ import annotations

from torch import nn

from jam.models.streaming import Int8Linear
from jam.models.towers import Tower


def quantize(model: nn.Module) -> int:
    """Replace the linear layers of towers and cross blocks by int8 ones, in place; the number of layers.

    Embeddings and the heads, whose rows they often share, keep their type, and so do norms. What comes out decodes, but
    it can be neither trained nor saved.
    """
    heads = {id(tower.head) for tower in model.modules() if isinstance(tower, Tower) and tower.has_vocabulary}
    heads |= {id(getattr(model, "lm_head", None))}
    replaced = 0
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear) and id(layer) not in heads:
                setattr(parent, name, Int8Linear(layer))
                replaced += 1
    return replaced


def is_quantized(model: nn.Module) -> bool:
    return any(isinstance(layer, Int8Linear) for layer in model.modules())
