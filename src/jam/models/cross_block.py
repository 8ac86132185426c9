"""One direction of the exchange between towers (JAM paper section 2.1.3; docs/method.md, section 2).

Shapes: B batch, T time, K keys, d width of the receiving tower, o width of the other tower.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from jam.models.towers.attention import attend
from jam.packed import Mask


class Projection(nn.Linear):
    """A linear layer without bias, with the standard deviation of its fresh weights for `PreTrainedModel`."""

    def __init__(self, in_features: int, out_features: int, std: float) -> None:
        super().__init__(in_features, out_features, bias=False)
        self.std = std


class CrossBlock(GradientCheckpointingLayer):
    """``x += Attention(q = LN(x), k = v = other stream, not normed); x += FFN(LN(x))``, without biases.

    The norms have no parameters, the FFN has width 4d. Queries and keys have the heads of the receiving tower, so that
    the other tower may have heads of any number and size. If both towers have rotary positions, the rotary of the
    receiving tower (of its layers with full attention) rotates queries and keys: the streams of such towers carry no
    positions, so that a block without rotary would not know the distance of two tokens.

    Args:
        config: config of the receiving tower.
        other_size: width o of the other tower.
        activation: name of the FFN's activation.
        layer_idx: index in the cache.
        std: standard deviation of fresh weights.
        output_std: standard deviation of the two matrices that write to the stream; 0: starts as the identity.
    """

    def __init__(
        self,
        config: PretrainedConfig,
        other_size: int,
        activation: str,
        layer_idx: int,
        std: float = 0.02,
        output_std: float = 0.0,
    ) -> None:
        super().__init__()
        size, heads = config.hidden_size, config.num_attention_heads
        self.head_dim = getattr(config, "head_dim", None) or size // heads
        self.layer_idx = layer_idx
        inner = heads * self.head_dim
        self.attention_norm = nn.LayerNorm(size, elementwise_affine=False)
        self.q_proj = Projection(size, inner, std)
        self.k_proj = Projection(other_size, inner, std)
        self.v_proj = Projection(other_size, inner, std)
        self.o_proj = Projection(inner, size, output_std)
        self.ffn_norm = nn.LayerNorm(size, elementwise_affine=False)
        self.fc1 = Projection(size, 4 * size, std)
        self.activation = ACT2FN[activation]
        self.fc2 = Projection(4 * size, size, output_std)

    def forward(
        self,
        hidden: Tensor,
        other: Tensor,
        mask: Mask,
        rotary: tuple[Tensor, Tensor] | None,
        cache: Cache | None,
    ) -> Tensor:
        """The receiving stream [B, T, d], from the receiving stream [B, T, d] and the other stream [B, T, o].

        The mask is the towers' mask (bool [B, 1, T, K], packed documents, or None: plain causal): a token sees equal
        positions of both streams.
        """
        query = self._split_heads(self.q_proj(self.attention_norm(hidden)))
        key, value = self._split_heads(self.k_proj(other)), self._split_heads(self.v_proj(other))
        if rotary is not None:
            query, key = rotated(query, key, *rotary)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        attended = attend(query, key, value, mask)
        hidden = hidden + self.o_proj(attended.transpose(1, 2).flatten(2))
        return hidden + self.fc2(self.activation(self.fc1(self.ffn_norm(hidden))))

    def _split_heads(self, projected: Tensor) -> Tensor:
        """[B, T, heads * head_dim] to [B, heads, T, head_dim]."""
        return projected.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


def rotated(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Heads [B, heads, T, head_dim] whose first `dims` are rotated by cos and sin [B, T, dims]."""
    dims = cos.shape[-1]
    if dims == query.shape[-1]:
        return apply_rotary_pos_emb(query, key, cos, sin)
    turned = apply_rotary_pos_emb(query[..., :dims], key[..., :dims], cos, sin)
    return torch.cat([turned[0], query[..., dims:]], dim=-1), torch.cat([turned[1], key[..., dims:]], dim=-1)
