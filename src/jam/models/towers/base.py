"""What a family of decoders must tell us: where its parts are, and how to call a layer.

docs/new-family.md shows how to add one.
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
    """What the layers of one forward share; made by `Tower.enter`.

    Args:
        rotary: rotary positions by type of layer; empty for a family without.
        masks: attention masks by type of layer, in the form that the family's attention takes.
        cache: keys and values of earlier forwards; None without a cache.
    """

    rotary: dict[str, tuple[Tensor, Tensor]]
    masks: dict[str, Mask]
    cache: Cache | None

    @property
    def global_rotary(self) -> Rotary:
        """That of layers that see everything, which long distances need; else that of layers that see a window."""
        return self.rotary.get(FULL, self.rotary.get(SLIDING))


class Family(ABC):
    """One architecture of `transformers`. Names are dotted paths inside the ...ForCausalLM class; None: has none.

    What a family says of names, shapes and settings needs neither torch nor `transformers`.

    Attributes:
        architecture: name of that class.
        home: the module that has it.
        positions: learned position table.
        image_head: module that writes image codes, [N, head width] to [N, codes], where they are no rows of the head;
            the rows of the embedding behind those of the head are the codes' then.
        norm_shift: what norms add to their weights.
        activation: field of the config that names the activation of the FFN.
        initializer: field of the config with the standard deviation of new weights.
        attention: "sdpa", or "eager" where the layers do what the former cannot.
        layouts: how documents of the family's image models look, the usual one first; none for a family without.
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
        """The class, imported when it is asked for."""
        return getattr(import_module(self.home), self.architecture)

    def shapes(self, config: Any) -> dict[str, tuple[int, ...]] | None:
        """Shape of every tensor of a checkpoint, in the class's order; None: only the class can tell.

        Of a tied table its first name alone; tests/models/test_configs_without_classes.py compares with the classes.

        Args:
            config: `Settings`, or the config of `transformers`.
        """
        return None

    def check(self, config: PretrainedConfig) -> None:
        """Raises ValueError for a config that describes something else than a causal decoder."""
        return None

    def layer_types(self, config: PretrainedConfig) -> list[str]:
        """For every layer FULL, or SLIDING where it sees `config.sliding_window` positions only."""
        return [FULL] * config.num_hidden_layers

    def embedding_scale(self, config: PretrainedConfig) -> float:
        """What the embedding multiplies its rows by."""
        return 1.0

    def logit_cap(self, config: PretrainedConfig) -> float | None:
        """c where the logits are ``c tanh(x / c)`` of the head's output x."""
        return None

    def positions_of(self, table: nn.Module, position_ids: Tensor) -> Tensor:
        """Learned position vectors [B, T, d], where `positions` names a table."""
        raise TypeError(f"{type(self).__name__} names a position table and does not say how it is read")

    def rotary(
        self, model: PreTrainedModel, hidden: Tensor, position_ids: Tensor, cache: Cache | None
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Cosines and sines of rotary positions, by type of layer; empty where the family has none."""
        return {}

    def widen(self, model: PreTrainedModel, embedded: Tensor) -> Tensor:
        """From the width of the embedding to that of the layers."""
        return embedded

    def narrow(self, model: PreTrainedModel, hidden: Tensor) -> Tensor:
        """From the width of the layers to that of the head."""
        return hidden

    @abstractmethod
    def call_layer(self, layer: nn.Module, hidden: Tensor, rotary: Rotary, mask: Mask, cache: Cache | None) -> Tensor:
        """One decoder layer, [B, T, d] to [B, T, d]."""

    def attention_of(self, layer: nn.Module) -> Any:
        """The layer's attention module, whose `layer_idx` is its index in the cache."""
        return layer.get_submodule("self_attn")
