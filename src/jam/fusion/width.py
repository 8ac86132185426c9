"""Width fusion (paper eq. 2 and 3): hidden size, heads and feed-forward double, the number of layers stays.

Embeddings, positions, norms, biases and the output head are concatenated along the hidden dimension; any other matrix
becomes ``[[W_text, W_text], [W_image, W_image]]`` (copy) or ``[[W_text, W_avg], [W_image, W_avg]]`` (average).
Heads lie in the rows of the projections: the first half of them is the text parent's, the second the image parent's.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from jam.fusion.pair import Pair
from jam.fusion.plan import FusionPlan
from jam.fusion.rows import joint_table
from jam.fusion.single import Combine, single_config, single_plan
from jam.fusion.skeleton import Skeleton
from jam.models.towers import family_of

Init = Literal["copy", "average"]
DOUBLED = (
    "hidden_size",
    "word_embed_proj_dim",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "ffn_dim",
)  # head_dim stays


def width(pair: Pair, init: Init = "copy") -> FusionPlan:
    """Plan the concatenation of two parents of one shape.

    Raises:
        ValueError: the parents differ in architecture or shape, or have parts that don't grow with the hidden size.
    """
    pair.require_one_shape("width")
    if family_of(pair.text.config).embedding_scale(pair.text.config) != 1:
        raise ValueError(
            f"{pair.text.config.model_type} scales its embedding by the root of the hidden size, which width fusion "
            "doubles: the rows would no longer be the parents'; cross (--method cross) keeps them"
        )
    rows = partial(joint_rows, text_V=pair.text_index, image_V=pair.image_index)
    blocks = {"copy": "[[text, text], [image, image]]", "average": "[[text, average], [image, average]]"}

    def rule(name: str, target: Skeleton) -> tuple[str, Combine]:
        if name in target.vocabulary_tensors:
            return "rows side by side; a parent's mean row where it has none", rows
        if target.shapes[name] == pair.text.skeleton.shapes[name]:
            raise ValueError(
                f"width fusion doubles what every head reads, and {name} {list(target.shapes[name])} is one for all "
                "heads of both parents; cross (--method cross) keeps both"
            )
        if name == target.position_table or len(target.shapes[name]) == 1:
            return "concatenation along the hidden dimension", concatenate
        return blocks[init], partial(widen, init=init)

    return single_plan(pair, "width", single_config(pair, DOUBLED), rule)


def joint_rows(text: Tensor, image: Tensor, *, text_V: Tensor, image_V: Tensor) -> Tensor:
    """Both tables in joint order, side by side: ``[V, 2 D]``."""
    return torch.cat([joint_table(text, text_V), joint_table(image, image_V)], dim=1)


def concatenate(text: Tensor, image: Tensor) -> Tensor:
    return torch.cat([text, image], dim=-1)


def widen(text: Tensor, image: Tensor, *, init: Init) -> Tensor:
    """``[out, in]`` of both parents to ``[2 out, 2 in]``."""
    average = (text + image) / 2
    right = (text, image) if init == "copy" else (average, average)
    return torch.cat([torch.cat([text, image]), torch.cat(right)], dim=1)
