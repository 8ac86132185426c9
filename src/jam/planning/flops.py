"""Floating-point operations of a token.

A multiplication by a matrix of n parameters takes 2 n operations forward, 2 n for the gradient of the input and, unless
the matrix is frozen, 2 n for the gradient of the matrix. Attention takes 4 h t forward (h: width of all heads together,
t: visible positions, (context + 1) / 2 in the mean) and 8 h t backward, in the towers' layers and in cross blocks. A
token passes through the head of its modality only. Recomputed layers take their forward operations once more, which do
not count as work in the utilisation of a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from jam.models import JointModel
from jam.models.towers.base import FULL


@dataclass(frozen=True)
class Flops:
    """Operations of a token. `recomputed` is not part of `work`."""

    forward: float
    input_gradients: float
    weight_gradients: float
    attention: float  # forward and backward; part of the other figures
    recomputed: float

    @property
    def work(self) -> float:
        return self.forward + self.input_gradients + self.weight_gradients


def flops_per_token(network: JointModel, context: int, image_share: float, recompute: bool) -> Flops:
    """Operations of a token, from the modules of a network and `requires_grad` of its parameters.

    Args:
        image_share: share of image tokens, for the heads.
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
        # Some trained parameters are before the first layer (new rows, adapters), so all layers pass gradients on.
        input_gradients=forward + attention,
        weight_gradients=trained,
        attention=3 * attention,
        recomputed=layers + attention if recompute else 0.0,
    )


def _attention(network: JointModel, context: int) -> list[tuple[int, float]]:
    """The width of all heads together, and the mean number of visible positions, of every attention."""
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
