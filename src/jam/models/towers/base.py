"""The interface of a family of decoders: the places of parts, and the call of a layer.

docs/new-family.md shows how to add a family.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from jam.layout import NamedLayout

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig, PreTrainedModel
    from transformers.cache_utils import Cache

    from jam.packed import Mask

FULL, SLIDING = "full_attention", "sliding_attention"  # types of layers, by their names in configs of `transformers`
Rotary: TypeAlias = "tuple[Tensor, Tensor] | None"  # cosines and sines, [B, T, rotated dims of a head] each


@dataclass(frozen=True)
class Context:
    """Values that the layers of a forward share, from `Tower.enter`.

    Args:
        rotary: rotary positions by type of layer; empty for a family without rotary positions.
        masks: attention masks by type of layer, in the form for the family's attention.
        cache: keys and values of earlier forwards; None without a cache.
    """

    rotary: dict[str, tuple[Tensor, Tensor]]
    masks: dict[str, Mask]
    cache: Cache | None

    @property
    def global_rotary(self) -> Rotary:
        """The rotary of layers with full attention, which long distances need; else of layers with a window."""
        return self.rotary.get(FULL, self.rotary.get(SLIDING))


class Family(ABC):
    """An architecture of `transformers`; parts are dotted paths inside the ...ForCausalLM class, None: no such part.

    Names, shapes and settings of a family need neither torch nor `transformers`.

    Attributes:
        architecture: name of the class.
        home: module of the class.
        positions: learned position table.
        image_head: module that writes image codes, [N, head width] to [N, codes], instead of rows of the head; the
            codes are then the embedding's rows beyond the head's rows.
        norm_shift: number that norms add to their weights.
        activation: field of the config that names the activation of the FFN.
        initializer: field of the config with the standard deviation of new weights.
        attention: "sdpa", or "eager" if SDPA cannot compute the layers' attention.
        layouts: layouts of documents of the family's image models, the usual layout first.
    """

    architecture: str
    home: str = "transformers"
    embedding: str
    positions: str | None = None
    layers: str
    norm: str
    head: str = "lm_head"
    image_head: str | None = None
    norm_shift: float = 0.0
    activation: str = "hidden_act"
    initializer: str = "initializer_range"
    attention: str = "sdpa"
    layouts: ClassVar[tuple[NamedLayout, ...]] = ()

    @property
    def model_class(self) -> type[PreTrainedModel]:
        """The class of the architecture, imported on use."""
        return getattr(import_module(self.home), self.architecture)

    def shapes(self, config: Any) -> dict[str, tuple[int, ...]] | None:
        """Shape of every tensor of a checkpoint, in the class's order; None: only the class can tell.

        A tied table has only its first name. tests/models/test_configs_without_classes.py compares with the classes.

        Args:
            config: `Settings`, or a config of `transformers`.
        """
        return None

    def check(self, config: PretrainedConfig) -> None:
        """Raises ValueError for a config that does not describe a causal decoder."""
        return None

    def layer_types(self, config: PretrainedConfig) -> list[str]:
        """FULL for every layer, or SLIDING for a layer that sees only `config.sliding_window` positions."""
        return [FULL] * config.num_hidden_layers

    def embedding_scale(self, config: PretrainedConfig) -> float:
        """The factor by which the embedding multiplies rows."""
        return 1.0

    def logit_cap(self, config: PretrainedConfig) -> float | None:
        """c, if the logits are ``c tanh(x / c)`` of the head's output x; else None."""
        return None

    def positions_of(self, table: nn.Module, position_ids: Tensor) -> Tensor:
        """Learned position vectors [B, T, d], if `positions` names a table."""
        raise TypeError(f"{type(self).__name__} names a position table and does not say how it is read")

    def rotary(
        self, model: PreTrainedModel, hidden: Tensor, position_ids: Tensor, cache: Cache | None
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Cosines and sines of rotary positions by type of layer; empty for a family without rotary positions."""
        return {}

    def widen(self, model: PreTrainedModel, embedded: Tensor) -> Tensor:
        """Embedded tokens in the width of the layers."""
        return embedded

    def narrow(self, model: PreTrainedModel, hidden: Tensor) -> Tensor:
        """Hidden states in the width of the head."""
        return hidden

    @abstractmethod
    def call_layer(self, layer: nn.Module, hidden: Tensor, rotary: Rotary, mask: Mask, cache: Cache | None) -> Tensor:
        """The output of a decoder layer, [B, T, d] to [B, T, d]."""

    def attention_of(self, layer: nn.Module) -> Any:
        """The layer's attention module, whose `layer_idx` is its index in the cache."""
        return layer.get_submodule("self_attn")
