"""Checkpoints with a decoder and an image encoder, an image tokenizer or image heads.

A tower has only the decoder. A composite tells the decoder's config, the names of its tensors in the checkpoint, and
the computation of tensors that the checkpoint holds in another form.
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
    """A computed tensor of the decoder: the rows of its first source, then rows computed from the other sources.

    Args:
        sources: shapes of the sources by their names in the checkpoint, in order.
        operation: the computation, in words.
        rows_behind: from the other sources, in order, to the rows after the first source's rows; None: no such rows.
    """

    sources: dict[str, tuple[int, ...]]
    operation: str
    rows_behind: Callable[..., Tensor] | None = None

    def compute(self, first: Tensor, *sources: Tensor) -> Tensor:
        """The tensor, from all sources in order."""
        if self.rows_behind is None:
            return first
        import torch

        return torch.cat([first, self.rows_behind(*sources)])


class Composite:
    """The form of a checkpoint; this base class is for a decoder alone.

    Attributes:
        prefixes: prefixes of names in the checkpoint -> prefixes in the decoder, of which the first match counts; None:
            no part of the decoder.
        whole_architecture: class of `transformers` that opens a checkpoint with a fused decoder in the parent's place;
            None: a fused decoder is saved alone.
    """

    prefixes: ClassVar[dict[str, str | None]] = {}
    whole_architecture: ClassVar[str | None] = None

    @property
    def whole_class(self) -> type[PreTrainedModel] | None:
        """The class that `whole_architecture` names, imported on use."""
        if self.whole_architecture is None:
            return None
        import transformers

        return getattr(transformers, self.whole_architecture)

    def decoder_config(self, config: PretrainedConfig) -> PretrainedConfig:
        """The config of the decoder alone."""
        return config

    def made(self, config: PretrainedConfig, stored: Collection[str]) -> dict[str, Made]:
        """Computed tensors, by their names in the decoder.

        Args:
            config: the checkpoint's config.
            stored: the names of the checkpoint's tensors; empty without weights.
        """
        return {}

    def name_of(self, stored: str) -> str | None:
        """The decoder's name of a tensor of the checkpoint; None if the decoder has no such tensor."""
        for prefix, replacement in self.prefixes.items():
            if stored.startswith(prefix):
                return None if replacement is None else replacement + stored.removeprefix(prefix)
        return stored

    def with_decoder(self, config: PretrainedConfig, decoder: PretrainedConfig) -> PretrainedConfig:
        """The config of a `whole_class`: `config` with another decoder."""
        raise TypeError(f"{type(self).__name__} names no whole_architecture")

    def decoder_of(self, whole: PreTrainedModel) -> PreTrainedModel:
        """The decoder inside a `whole_class`, with shared modules."""
        raise TypeError(f"{type(self).__name__} names no whole_architecture")

    @staticmethod
    def text_config(config: PretrainedConfig) -> PretrainedConfig:
        """A copy of the text config inside a composite config, with ties and data type from the composite config."""
        text = copy.deepcopy(config.text_config)
        text.tie_word_embeddings = config.tie_word_embeddings
        text.dtype = text.dtype or config.dtype
        return text
