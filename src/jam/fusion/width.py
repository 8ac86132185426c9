"""Width fusion (paper eq. 2 and 3): hidden size, heads and feed-forward double, the number of layers stays.

Embeddings, positions, norms, biases and the output head are concatenated along the hidden dimension; any other matrix
becomes ``[[W_text, W_text], [W_image, W_image]]`` (copy) or ``[[W_text, W_avg], [W_image, W_avg]]`` (average).
Heads lie in the rows of the projections: the first half of them is the text parent's, the second the image parent's.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from jam.fusion.config import Init
from jam.fusion.pair import Pair
from jam.fusion.plan import Compute, FusionPlan
from jam.fusion.rows import joint_blocks
from jam.fusion.single import single_config, single_plan
from jam.fusion.skeleton import Skeleton
from jam.fusion.tables import Table
from jam.models.towers import family_of

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

    def rule(name: str, target: Skeleton) -> tuple[str, Compute]:
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


def joint_rows(text: Table, image: Table, *, text_V: Tensor, image_V: Tensor) -> Iterator[Tensor]:
    """Both tables in joint order, side by side: ``[V, 2 D]`` in blocks."""
    return _side_by_side(joint_blocks(text, text_V), joint_blocks(image, image_V))


def concatenate(text: Table, image: Table) -> Iterator[Tensor]:
    """Vectors one behind the other, matrices side by side."""
    if text.row_shape:
        yield from _side_by_side(text.blocks(), image.blocks())
    else:
        yield from text.blocks()
        yield from image.blocks()


def widen(text: Table, image: Table, *, init: Init) -> Iterator[Tensor]:
    """``[out, in]`` of both parents to ``[2 out, 2 in]``, in blocks."""
    for left in (text, image):
        for span in left.spans():
            own = left.rows(*span)
            if init == "copy":
                yield torch.cat([own, own], dim=1)
                continue
            other = (image if left is text else text).rows(*span)
            yield torch.cat([own, (own + other) / 2], dim=1)


def _side_by_side(left: Iterator[Tensor], right: Iterator[Tensor]) -> Iterator[Tensor]:
    return (torch.cat(blocks, dim=1) for blocks in zip(left, right, strict=True))
