"""Floating-point operations of a token.

A multiplication by a matrix of n parameters takes 2 n operations forward, 2 n for the gradient of its input and 2 n for
that of the matrix; a frozen matrix has none of the last. Attention takes 4 h t forward (h: width of all heads together,
t: positions that are seen, (context + 1) / 2 in the mean) and 8 h t backward, in the towers' layers and in cross blocks
alike. Of the heads, a token goes through that of its modality. Recomputed layers take their forward once more, which
the utilisation of a GPU does not count as work.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from jam.models import JointModel
from jam.models.towers.base import FULL


@dataclass(frozen=True)
class Flops:
    """Of a token. `recomputed` is run and not part of `work`."""

    forward: float
    input_gradients: float
    weight_gradients: float
    attention: float  # part of the others: forward and backward
    recomputed: float

    @property
    def work(self) -> float:
        return self.forward + self.input_gradients + self.weight_gradients


def flops_per_token(network: JointModel, context: int, image_share: float, recompute: bool) -> Flops:
    """By the modules of a network, whose parameters say whether they are trained.

    Args:
        image_share: of the tokens, for the heads.
    """
    matrices = [inner.weight for block in network.blocks for inner in block.modules() if isinstance(inner, nn.Linear)]
    layers = 2.0 * sum(weight.numel() for weight in matrices)
    attention = sum(4.0 * width * seen for width, seen in _attention(network, context))
    outside, heads = network.weights_outside(), network.readout_weights()
    shares = [1 - image_share, image_share] if len(heads) == 2 else [1.0]
    around = [(weight, 1.0) for weight in outside] + list(zip(heads, shares, strict=True))
    forward = layers + attention + sum(2.0 * weight.numel() * share for weight, share in around)
    trained = 2.0 * sum(weight.numel() for weight in matrices if weight.requires_grad)
    trained += sum(2.0 * weight.numel() * share for weight, share in around if weight.requires_grad)
    return Flops(
        forward=forward,
        # What is trained lies before the first layer (new rows, adapters), so all layers pass gradients on.
        input_gradients=forward + attention,
        weight_gradients=trained,
        attention=3 * attention,
        recomputed=layers + attention if recompute else 0.0,
    )


def _attention(network: JointModel, context: int) -> list[tuple[int, float]]:
    """For every attention the width of its heads together and how many positions are seen in the mean."""
    whole = (context + 1) / 2
    found: list[tuple[int, float]] = []
    for tower in network.towers:
        config = tower.config
        width = config.num_attention_heads * _head_dim(config)
        window = min(getattr(config, "sliding_window", None) or context, context)
        sliding = window - window * (window - 1) / (2 * context)
        found += [(width, whole if kind == FULL else sliding) for kind in tower.layer_types]
    found += [(block.q_proj.out_features, whole) for block in network.cross_blocks]
    return found


def _head_dim(config: object) -> int:
    own = getattr(config, "head_dim", None)
    return own or config.hidden_size // config.num_attention_heads  # type: ignore[attr-defined]
