"""jam: fuse a language model and an image-token model into one that writes illustrated documents.

>>> model = jam.load("fused")  # doctest: +SKIP
>>> document = model.generate("How do I draw a red house?")  # doctest: +SKIP
>>> document.save("page.html")  # doctest: +SKIP

There is a function for every command: `fuse`, `verify`, `prepare`, `train`, `evaluate`, `plan`, `export`,
`train_tokenizer`, `convert_documents`, `convert_tokenizer`; `generate` and `fill` are methods of the `Model` that
`load` returns. `PARENTS` is the folder of two tiny parents to try them with.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from jam.documents import Document, Gap, Image, Message, Text
from jam.waiting import wait_briefly

if TYPE_CHECKING:
    from jam.api.converting import convert_documents, convert_tokenizer
    from jam.api.exporting import export
    from jam.api.loading import load
    from jam.api.measuring import evaluate
    from jam.api.model import Model
    from jam.api.planning import plan
    from jam.api.preparing import prepare
    from jam.api.training import train, train_tokenizer
    from jam.api.verifying import verify
    from jam.fusion import FuseConfig, fuse
    from jam.generation import GenerationSettings
    from jam.tokenizer_training import TokenizerConfig
    from jam.training import DataSource, TrainConfig
    from jam.tutorials import PARENTS

_MODULES = {
    "DataSource": "training",
    "FuseConfig": "fusion",
    "GenerationSettings": "generation",
    "Model": "api.model",
    "PARENTS": "tutorials",
    "TokenizerConfig": "tokenizer_training",
    "TrainConfig": "training",
    "convert_documents": "api.converting",
    "convert_tokenizer": "api.converting",
    "evaluate": "api.measuring",
    "export": "api.exporting",
    "fuse": "fusion",
    "load": "api.loading",
    "plan": "api.planning",
    "prepare": "api.preparing",
    "train": "api.training",
    "train_tokenizer": "api.training",
    "verify": "api.verifying",
}
__all__ = [
    "PARENTS",
    "DataSource",
    "Document",
    "FuseConfig",
    "Gap",
    "GenerationSettings",
    "Image",
    "Message",
    "Model",
    "Text",
    "TokenizerConfig",
    "TrainConfig",
    "convert_documents",
    "convert_tokenizer",
    "evaluate",
    "export",
    "fuse",
    "load",
    "plan",
    "prepare",
    "train",
    "train_tokenizer",
    "verify",
]

wait_briefly()  # here, since nothing of jam is imported before


def __getattr__(name: str) -> Any:
    """What is imported when it is used: a command that loads no model does not wait for it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
