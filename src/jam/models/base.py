"""What the joint models have in common beside their networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from jam.grammar import Grammar
from jam.models.cache import RowCache
from jam.packed import Mask, Packed
from jam.vocabulary import Vocabulary


class JointBase:
    """Vocabulary, context, caches and the arguments of `hidden`, by the model's `grammar` and `config`."""

    grammar: Grammar
    config: Any  # of `transformers`; those of towers and of plain decoders name the sizes alike

    @property
    def vocabulary(self) -> Vocabulary:
        return self.grammar.vocabulary

    @property
    def context_length(self) -> int:
        """The longest sequence that the model takes: with two towers, that both take."""
        return self.config.max_position_embeddings

    def new_cache(self, rows: int, max_length: int) -> RowCache:
        """An empty cache for `rows` sequences of up to `max_length` tokens."""
        self._check_length(max_length)
        return RowCache(self.config.num_hidden_layers, rows, max_length)

    def _positions(
        self, input_ids: Tensor, position_ids: Tensor | None, attention_mask: Mask, cache: RowCache | None
    ) -> Tensor:
        """The positions that `hidden` takes, 0, 1, 2, ... by default; raises ValueError if its arguments don't fit."""
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
