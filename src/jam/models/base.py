"""The base class of all models over the joint vocabulary."""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from jam.grammar import Grammar
from jam.models.cache import RowCache
from jam.packed import Mask, Packed
from jam.vocabulary import Vocabulary

if TYPE_CHECKING:
    from jam.models.cross_block import CrossBlock
    from jam.models.towers import JointTower, Tower


class JointModel(nn.Module, ABC):
    """A model for training, evaluation, planning and generation: `CrossForCausalLM` or `SingleDecoder`.

    Attributes:
        grammar: grammar of the model's documents.
        config: config of `transformers`, with the names of sizes that plain decoders have.
        device, dtype: device and data type of the parameters.
    """

    grammar: Grammar
    config: Any
    device: torch.device
    dtype: torch.dtype

    @abstractmethod
    def hidden(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        attention_mask: Mask = None,
        cache: RowCache | None = None,
    ) -> Tensor:
        """The states that `logits` reads, [B, T, H].

        Args:
            input_ids: joint ids, long [B, T].
            position_ids: long [B, T] (or [1, T]); None: 0, 1, 2, ...
            attention_mask: bool [B, 1, T, K], True where visible; packed documents, which see only themselves; or None
                (plain causal).
            cache: a cache after `RowCache.step`, which returned `position_ids` and `attention_mask`.
        """

    @abstractmethod
    def logits(self, hidden: Tensor, states: Tensor) -> Tensor:
        """Logits [..., V] of joint ids, from `hidden` [..., H] and the targets' states, long [...]."""

    @property
    @abstractmethod
    def towers(self) -> list[Tower]:
        """The decoders of the text parent and the image parent, or a single decoder."""

    @abstractmethod
    def layer_pairs(self) -> list[list[nn.Module]]:
        """By depth, the layers of all towers and the cross blocks after these layers."""

    @property
    def blocks(self) -> list[nn.Module]:
        """All layers and cross blocks."""
        return list(chain.from_iterable(self.layer_pairs()))

    @property
    def cross_blocks(self) -> list[CrossBlock]:
        """The cross blocks; none for a single decoder."""
        return []

    @abstractmethod
    def readout_parameters(self) -> list[nn.Parameter]:
        """The parameters that `logits` reads."""

    def readout_weights(self) -> list[Tensor]:
        """The matrices that give logits: one for text and one for images, or one for both."""
        return [tower.head.weight for tower in self.towers]

    def weights_outside(self) -> list[Tensor]:
        """Matrices outside blocks and readout."""
        return []

    def tower_of(self, role: str) -> JointTower | None:
        """The tower that equals the "text" or "image" parent; None if there is none."""
        return None

    def drop_all_but_heads(self) -> None:
        """Free all that `logits` does not need; no other method works afterwards."""
        for tower in self.towers:
            tower.drop_all_but_head()

    @property
    def vocabulary(self) -> Vocabulary:
        return self.grammar.vocabulary

    @property
    def context_length(self) -> int:
        """The longest sequence in tokens; for two towers, the longest for both."""
        return self.config.max_position_embeddings

    def new_cache(self, rows: int, max_length: int) -> RowCache:
        """An empty cache for `rows` sequences of up to `max_length` tokens."""
        self._check_length(max_length)
        return RowCache(self.config.num_hidden_layers, rows, max_length)

    def _positions(
        self, input_ids: Tensor, position_ids: Tensor | None, attention_mask: Mask, cache: RowCache | None
    ) -> Tensor:
        """The positions for `hidden`, by default 0, 1, 2, ...; raises ValueError if its arguments do not fit."""
        if cache is not None and attention_mask is None:
            raise ValueError("a cache needs the positions and the mask that RowCache.step returns")
        if isinstance(attention_mask, Packed):
            if position_ids is None or cache is not None:
                raise ValueError("packed documents need their own positions, and no cache")
        elif attention_mask is not None and (attention_mask.dtype != torch.bool or attention_mask.ndim != 4):
            raise ValueError(
                f"attention_mask is {attention_mask.dtype} {list(attention_mask.shape)}; it must be bool [batch, 1, "
                "time, keys], True where visible (right padding needs no mask)"
            )
        if position_ids is not None:
            return position_ids
        self._check_length(input_ids.shape[1])
        return torch.arange(input_ids.shape[1], device=input_ids.device)[None]

    def _check_length(self, length: int) -> None:
        if length > self.context_length:
            raise ValueError(
                f"a sequence of {length} tokens is longer than the model's context of {self.context_length}"
            )
