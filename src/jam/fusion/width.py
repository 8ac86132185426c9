"""Width fusion (paper eq. 2 and 3): hidden size, heads and feed-forward double, the number of layers stays.

Embeddings, positions, norms, biases and the output head are concatenated along the hidden dimension; any other matrix
becomes ``[[W_text, W_text], [W_image, W_image]]`` (copy) or ``[[W_text, W_avg], [W_image, W_avg]]`` (average).
Heads lie in the rows of the projections: the first half of them is the text parent's, the second the image parent's.

Gemma multiplies its embeddings by the root of the hidden size, which doubles: the table is divided by sqrt(2), and
where the head is the same table, the final norm is multiplied by it, so that the logits are those of the parents' own
rows.
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
from jam.fusion.single import single_config, single_index, single_plan
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
    config = single_config(pair, DOUBLED)
    family = family_of(config)
    text_V, image_V = single_index(pair)
    rows = partial(joint_rows, text_V=text_V, image_V=image_V)
    # An embedding that multiplies by the root of the hidden size would make the parents' vectors larger.
    scale = family.embedding_scale(config) / family.embedding_scale(pair.text.config)
    blocks = {"copy": "[[text, text], [image, image]]", "average": "[[text, average], [image, average]]"}
    behind = "concatenation along the hidden dimension"

    def rule(name: str, target: Skeleton) -> tuple[str, Compute]:
        shape, old = target.shapes[name], pair.text.skeleton.shapes[name]
        if name in target.vocabulary_tensors:
            operation = "rows side by side; a parent's mean row where it has none"
            if scale == 1 or name != target.input_table:
                return operation, rows
            return f"{operation}; divided by {scale:.4g}, by which the wider embedding multiplies more", divided(
                rows, scale
            )
        if scale != 1 and target.input_table == target.output_table and name == f"{target.norm}weight":
            operation = f"{behind}; times {scale:.4g}, by which the tied head's rows are smaller"
            return operation, partial(scaled_norm, scale=scale, shift=family.norm_shift)
        growth = [new // before for new, before in zip(shape, old, strict=True)]
        if 2 not in growth:
            raise ValueError(
                f"width fusion doubles the heads, and {name} {list(shape)} is one for all of them, where each parent "
                "has its own; uniform (--method uniform) averages it, cross (--method cross) keeps both"
            )
        if growth == [2, 2]:
            return blocks[init], partial(widen, init=init)
        return behind, beside if growth[0] == 1 else one_behind_the_other

    return single_plan(pair, "width", config, rule)


def joint_rows(text: Table, image: Table, *, text_V: Tensor, image_V: Tensor) -> Iterator[Tensor]:
    """Both tables in joint order, side by side: ``[V, 2 D]`` in blocks."""
    return _side_by_side(joint_blocks(text, text_V), joint_blocks(image, image_V))


def divided(compute: Compute, by: float) -> Compute:
    """A computation whose result is divided by a number."""
    return lambda *tables: (block / by for block in compute(*tables))


def beside(text: Table, image: Table) -> Iterator[Tensor]:
    """Rows side by side."""
    return _side_by_side(text.blocks(), image.blocks())


def one_behind_the_other(text: Table, image: Table) -> Iterator[Tensor]:
    yield from text.blocks()
    yield from image.blocks()


def scaled_norm(text: Table, image: Table, *, scale: float, shift: float) -> Iterator[Tensor]:
    """Weights w of both norms, one behind the other, such that ``shift + w`` is `scale` times what it was."""
    return ((block + shift) * scale - shift for block in one_behind_the_other(text, image))


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
