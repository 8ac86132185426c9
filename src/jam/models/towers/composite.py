"""Checkpoints of classes that hold a decoder beside an image encoder, an image tokenizer or image heads.

A tower holds the decoder alone. The composite says which config the decoder has, what its tensors are called in the
checkpoint, and how tensors are made that the checkpoint does not hold as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Made:
    """A tensor of the decoder that is made of others: the rows of the first of them, and rows made of the rest.

    Args:
        sources: shapes of these others, by their names in the checkpoint, the one whose rows come first at the front.
        operation: what is done, in words.
        rows_behind: from the other sources, in order, to the rows behind those of the first; None: there are none.
    """

    sources: dict[str, tuple[int, ...]]
    operation: str
    rows_behind: Callable[..., Tensor] | None = None

    def compute(self, first: Tensor, *others: Tensor) -> Tensor:
        """The tensor, from all sources in order."""
        if self.rows_behind is None:
            return first
        import torch

        return torch.cat([first, self.rows_behind(*others)])


class Composite:
    """As it stands: a checkpoint that is a decoder and nothing else.

    Attributes:
        prefixes: beginnings of names in the checkpoint and what stands for them in the decoder, the first that fits;
            None: no part of the decoder.
        whole_architecture: name of the class of `transformers` that opens a checkpoint with a fused decoder in the
            parent's place; None: such a decoder is saved alone.
    """

    prefixes: ClassVar[dict[str, str | None]] = {}
    whole_architecture: ClassVar[str | None] = None

    @property
    def whole_class(self) -> type[PreTrainedModel] | None:
        """The class that `whole_architecture` names, imported when it is asked for."""
        if self.whole_architecture is None:
            return None
        import transformers

        return getattr(transformers, self.whole_architecture)

    def decoder_config(self, config: PretrainedConfig) -> PretrainedConfig:
        """The config of the decoder alone."""
        return config

    def made(self, config: PretrainedConfig, stored: Collection[str]) -> dict[str, Made]:
        """Tensors that are made, by their names in the decoder.

        Args:
            config: that of the checkpoint.
            stored: the names that the checkpoint has; empty where it has no weights.
        """
        return {}

    def name_of(self, stored: str) -> str | None:
        """The decoder's name of a tensor of the checkpoint; None if it has no such tensor."""
        for prefix, replacement in self.prefixes.items():
            if stored.startswith(prefix):
                return None if replacement is None else replacement + stored.removeprefix(prefix)
        return stored

    def with_decoder(self, config: PretrainedConfig, decoder: PretrainedConfig) -> PretrainedConfig:
        """The config of a `whole_class` like `config`, with another decoder."""
        raise TypeError(f"{type(self).__name__} names no whole_architecture")

    def decoder_of(self, whole: PreTrainedModel) -> PreTrainedModel:
        """The decoder inside a `whole_class`, of the very modules that are in it."""
        raise TypeError(f"{type(self).__name__} names no whole_architecture")

    @staticmethod
    def text_config(config: PretrainedConfig) -> PretrainedConfig:
        """A copy of the text config inside a composite one, with what the latter decides for it."""
        text = copy.deepcopy(config.text_config)
        text.tie_word_embeddings = config.tie_word_embeddings
        text.dtype = text.dtype or config.dtype
        return text
