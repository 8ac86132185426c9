"""The architectures that have a tower."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jam.models.towers.base import Family
from jam.models.towers.chameleon import ChameleonComposite, ChameleonFamily
from jam.models.towers.composite import Composite
from jam.models.towers.emu3 import Emu3Composite, Emu3Family
from jam.models.towers.gemma import Gemma2Family, Gemma3Composite, Gemma3Family, GemmaFamily
from jam.models.towers.janus import DECODER, JanusComposite, JanusFamily
from jam.models.towers.llama import LlamaFamily
from jam.models.towers.mistral import MistralFamily
from jam.models.towers.opt import OPTFamily
from jam.models.towers.qwen import Qwen2Family, Qwen3Family

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# By the `model_type` of the decoder's config.
FAMILIES: dict[str, Family] = {
    "chameleon": ChameleonFamily(),
    "emu3_text_model": Emu3Family(),
    "gemma": GemmaFamily(),
    "gemma2": Gemma2Family(),
    "gemma3_text": Gemma3Family(),
    DECODER: JanusFamily(),
    "llama": LlamaFamily(),
    "mistral": MistralFamily(),
    "opt": OPTFamily(),
    "qwen2": Qwen2Family(),
    "qwen3": Qwen3Family(),
}
# By the `model_type` of the whole checkpoint's config.
COMPOSITES: dict[str, Composite] = {
    "chameleon": ChameleonComposite(),
    "emu3": Emu3Composite(),
    "gemma3": Gemma3Composite(),
    "janus": JanusComposite(),
}


def composite_of(config: PretrainedConfig) -> Composite:
    """The composite of checkpoints with this config."""
    return COMPOSITES.get(config.model_type, Composite())


def decoder_config(config: PretrainedConfig) -> PretrainedConfig:
    """The config of the decoder in checkpoints with this config; `config` itself for a decoder alone."""
    return composite_of(config).decoder_config(config)


def family_of(config: PretrainedConfig) -> Family:
    """The family of a decoder's config. Raises ValueError for an architecture without a family."""
    family = FAMILIES.get(config.model_type)
    if family is None:
        known = ", ".join(sorted(FAMILIES.keys() - {DECODER} | COMPOSITES.keys()))
        raise ValueError(
            f"no tower for the architecture {config.model_type!r}; there are towers for: {known}; docs/new-family.md "
            "shows how to add one"
        )
    family.check(config)
    return family
