"""The interface of a fusion method; `methods` lists the methods."""

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
        name: the name for ``--method`` and the manifest.
        options: fields of `FuseConfig` that this method reads; a method without a field refuses all but its default.
        library: the library that opens the result, for the model card.
        reads_two_tokenizers: True if the parents' tokenizers may differ.
    """

    name: ClassVar[str]
    options: ClassVar[tuple[str, ...]] = ()
    library: ClassVar[str] = "transformers"
    reads_two_tokenizers: ClassVar[bool] = False

    @abstractmethod
    def plan(self, pair: Pair, config: FuseConfig) -> FusionPlan:
        """The plan of every tensor of the result. Raises ValueError when this method cannot fuse the pair."""

    @abstractmethod
    def not_promised(self, options: Mapping[str, Any]) -> str | None:
        """Why the result does not compute what its parents compute; None if it does, to the last bit (`jam verify`).

        Args:
            options: options of the method, from the manifest.
        """
