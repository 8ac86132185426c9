"""The common part of uniform and width fusion: the result is a checkpoint of the parents' own class.

If both parents are whole checkpoints of one composite class (Chameleon, Emu3), the result is one too, with the image
tokenizer of a parent.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from jam.checkpoints import TensorInfo, has_weights
from jam.checkpoints.tensors import KINDS
from jam.fusion.image_tokens import image_tokens
from jam.fusion.pair import Pair
from jam.fusion.parents import Parent
from jam.fusion.plan import COPY, Compute, FusionPlan, PlannedTensor, Source
from jam.fusion.skeleton import Skeleton, tensor_shapes
from jam.models.towers.settings import Settings
from jam.vocabulary import ParentRows, ranges

Rule = Callable[[str, Skeleton], tuple[str, Compute]]
"""From a tensor's name to the operation in words, and the computation from both parents' tables."""


def single_rows(pair: Pair) -> ParentRows:
    """Rows of the joint ids in the result: the joint order, but image codes with named text ids stay at their names."""
    v = pair.vocabulary
    codes = pair.image_index[v.image_start : v.control_start].tolist()
    if codes and ranges(codes) == v.text_image_ids:
        return replace(ParentRows.of_codes(v.text_size, codes), control_start=v.text_size, control_size=v.control_size)
    return ParentRows(v.text_size, v.image_start if v.image_size else None, v.control_start, v.control_size)


def single_index(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """For every row of the result, its row in the text parent and in the image parent, -1 without a row."""
    row_V = np.array(single_rows(pair).row_of(pair.vocabulary), dtype=np.int64)
    kept = row_V >= 0
    indices = []
    for index_V in (pair.text_index, pair.image_index):
        index = np.full(int(row_V.max()) + 1, -1, dtype=np.int64)
        index[row_V[kept]] = index_V[kept]
        indices.append(index)
    return indices[0], indices[1]


def single_settings(pair: Pair, doubled: tuple[str, ...] = ()) -> Any:
    """The text parent's settings with the rows of the result; sizes in `doubled` are doubled if they exist."""
    config = copy.deepcopy(pair.text.settings)
    config.vocab_size = len(single_index(pair)[0])
    v = pair.vocabulary
    for name, token in v.special_ids.items():
        setattr(config, name, token)
    if config.pad_token_id is not None and config.pad_token_id >= v.text_size:
        config.pad_token_id = None  # a row that the parent has and the result has not
    # Rotary parents may differ here.
    config.max_position_embeddings = min(p.settings.max_position_embeddings for p in (pair.text, pair.image))
    for name in doubled:
        if getattr(config, name, None) is not None:
            setattr(config, name, 2 * getattr(config, name))
    return config


def single_plan(pair: Pair, method: str, settings: Any, rule: Rule) -> FusionPlan:
    """The plan of the decoder that `settings` describe: each tensor comes from both parents' tensors of its name.

    Raises:
        ValueError: no class of `transformers` opens the result.
    """
    target = Skeleton(settings)
    planned = {}
    for name, shape in target.shapes.items():
        operation, compute = rule(name, target)
        sources = (Source("text", name), Source("image", name))
        planned[name] = PlannedTensor(name, shape, pair.kind, sources, operation, compute)
    whole = _whole(pair, settings, planned)
    if whole is not None:
        settings, architecture, tensors = whole
    else:
        _require_class(target, pair)
        architecture, tensors = target.architecture, list(planned.values())
    values = settings.to_dict() if isinstance(settings, Settings) else json.loads(settings.to_json_string())
    return FusionPlan(
        method,
        values | {"architectures": [architecture], "dtype": KINDS[pair.kind][0]},
        architecture,
        tuple(tensors),
        pair.vocabulary,
        pair.image_grid,
        single_rows(pair),
        [*pair.notes],
    )


def _whole(pair: Pair, decoder: Any, planned: dict[str, PlannedTensor]) -> tuple[Any, str, list[PlannedTensor]] | None:
    """Config, class and tensors of the composite with the planned decoder; None if the result is a decoder alone."""
    composite = pair.image.composite
    if composite.whole_architecture is None or pair.text.whole.model_type != pair.image.whole.model_type:
        return None
    import torch

    for giver in (pair.image, pair.text):
        config = composite.with_decoder(giver.whole, decoder)
        config.vocabulary_map = _renamed(giver, pair)
        with torch.device("meta"):
            model = composite.whole_class(config)  # type: ignore[misc]
        tensors = []
        for name, shape in tensor_shapes(model).items():
            inner = composite.name_of(name)
            if inner is not None:
                tensors.append(replace(planned[inner], name=name))
                continue
            info = giver.part_info(name) if has_weights(giver.folder) else TensorInfo(shape, pair.kind)  # a plan
            if info is None or info.shape != shape:
                break
            operation = f"copy: the image tokenizer is the {giver.role} parent's"
            tensors.append(PlannedTensor(name, shape, info.kind, (Source(giver.role, name),), operation, COPY))
        else:
            return config, composite.whole_architecture, tensors
    return None


def _renamed(giver: Parent, pair: Pair) -> dict[str, int]:
    """A parent's map of names, with the result's rows for names of image codes."""
    v, names = pair.vocabulary, giver.whole.vocabulary_map
    rows = single_rows(pair).row_of(v)[v.image_start : v.control_start]
    return names | {name: rows[code] for code, _, name in image_tokens(names)}


def _require_class(target: Skeleton, pair: Pair) -> None:
    decoder, composite = target.architecture, pair.image.composite
    if target.home == "transformers":
        return
    if composite.whole_architecture is not None:
        raise ValueError(
            f"transformers has no class for {decoder} without an image tokenizer, and neither parent holds that of a "
            f"{composite.whole_architecture} (tensors model.vqmodel.*); give a parent that does, or choose cross "
            "(--method cross), which needs none"
        )
    raise ValueError(
        f"uniform and width fusion write a checkpoint of transformers, which has no class for {decoder}: rows for "
        "<break> and its like have no place where image codes are read and written by modules; cross (--method cross) "
        "keeps both parents as they are"
    )
