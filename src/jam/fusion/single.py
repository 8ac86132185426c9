"""What uniform and width fusion share: the result is a plain decoder of the parents' own class."""

from __future__ import annotations

import copy
from collections.abc import Callable

import transformers
from transformers import PretrainedConfig

from jam.fusion.pair import Pair
from jam.fusion.plan import Compute, FusionPlan, PlannedTensor, Source
from jam.fusion.skeleton import Skeleton
from jam.vocabulary import ParentRows

Rule = Callable[[str, Skeleton], tuple[str, Compute]]
"""From a tensor's name to the operation in words and the function of both parents' tables that does it."""


def single_config(pair: Pair, doubled: tuple[str, ...] = ()) -> PretrainedConfig:
    """The text parent's config with the joint vocabulary; sizes named in `doubled` are doubled where they exist.

    Raises:
        ValueError: `transformers` has no class for the parents' decoder alone.
    """
    decoder = type(pair.text.skeleton.model).__name__
    if not hasattr(transformers, decoder):
        raise ValueError(
            f"uniform and width fusion write a checkpoint of transformers, which has no class for {decoder}, the part "
            "of the parents that is fused; cross (--method cross) keeps it"
        )
    config = copy.deepcopy(pair.text.config)
    config.vocab_size = pair.vocabulary.size
    config.bos_token_id = config.eos_token_id = pair.vocabulary.eos_id
    # Rotary parents may differ here.
    config.max_position_embeddings = min(p.config.max_position_embeddings for p in (pair.text, pair.image))
    for name in doubled:
        if getattr(config, name, None) is not None:
            setattr(config, name, 2 * getattr(config, name))
    return config


def single_plan(pair: Pair, method: str, config: PretrainedConfig, rule: Rule) -> FusionPlan:
    """Plan every tensor of the decoder that `config` describes from the parents' tensors of the same name."""
    target = Skeleton(config)
    tensors = []
    for name, shape in target.shapes.items():
        operation, compute = rule(name, target)
        sources = (Source("text", name), Source("image", name))
        tensors.append(PlannedTensor(name, shape, pair.dtype, sources, operation, compute))
    v = pair.vocabulary
    rows = ParentRows(v.text_size, v.image_start if v.image_size else None, v.control_start, v.control_size)
    architecture = type(target.model).__name__
    config.architectures, config.dtype = [architecture], pair.dtype
    return FusionPlan(method, config, architecture, tuple(tensors), v, pair.image_grid, rows, list(pair.notes))
