"""What a way of fusing has to say of itself; the ways are listed in `methods`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from jam.fusion.config import FuseConfig
    from jam.fusion.pair import Pair
    from jam.fusion.plan import FusionPlan


class FusionMethod(ABC):
    """A way to make one model of two parents.

    Attributes:
        name: as ``--method`` and the manifest name it.
        options: the fields of `FuseConfig` that decide what it writes; those that no other method has are refused
            beside another method.
        library: what opens the result, for the model card.
        reads_two_tokenizers: whether the parents may have tokenizers that differ.
    """

    name: ClassVar[str]
    options: ClassVar[tuple[str, ...]] = ()
    library: ClassVar[str] = "transformers"
    reads_two_tokenizers: ClassVar[bool] = False

    @abstractmethod
    def plan(self, pair: Pair, config: FuseConfig) -> FusionPlan:
        """Every tensor of the result. Raises ValueError when the pair cannot be fused in this way."""

    @abstractmethod
    def not_promised(self, options: Mapping[str, Any]) -> str | None:
        """Why the result does not compute what its parents do, for `jam verify`; None where it does, to the last bit.

        Args:
            options: as the manifest keeps them.
        """
