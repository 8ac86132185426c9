"""Width fusion (paper eq. 2 and 3): hidden size, heads and feed-forward double, the number of layers stays.

Embeddings, positions, norms, biases and the output head are concatenated along the hidden dimension; any other matrix
becomes ``[[W_text, W_text], [W_image, W_image]]`` (copy) or ``[[W_text, W_avg], [W_image, W_avg]]`` (average).
Heads are rows of the projections: the first half are the text parent's heads, the second half the image parent's.

Gemma multiplies embeddings by the root of the hidden size, which doubles: the embedding table is divided by sqrt(2). If
the head is tied to the table, the final norm is multiplied by sqrt(2), so that the logits keep their size.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from jam.fusion.config import FuseConfig, Init
from jam.fusion.method import FusionMethod
from jam.fusion.pair import Pair
from jam.fusion.plan import Compute, FusionPlan, Later
from jam.fusion.single import single_index, single_plan, single_settings
from jam.fusion.skeleton import Skeleton
from jam.models.towers import family_of

DOUBLED = (
    "hidden_size",
    "word_embed_proj_dim",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "ffn_dim",
)  # head_dim stays


class Width(FusionMethod):
    name = "width"
    options = ("init",)

    def plan(self, pair: Pair, config: FuseConfig) -> FusionPlan:
        return width(pair, config.init)

    def not_promised(self, options: Mapping[str, Any]) -> str:
        return "width fusion mixes the parents"


def width(pair: Pair, init: Init = "copy") -> FusionPlan:
    """The plan of concatenating two parents of one shape.

    Raises:
        ValueError: the parents differ in architecture or shape, or have parts that do not grow with the hidden size.
    """
    pair.require_one_shape("width")
    settings = single_settings(pair, DOUBLED)
    family = family_of(settings)
    text_V, image_V = single_index(pair)
    rows = partial(Later, "widening.joint_rows", text_V=text_V, image_V=image_V)
    # An embedding that multiplies by the root of the hidden size would make the parents' vectors larger.
    scale = family.embedding_scale(settings) / family.embedding_scale(pair.text.settings)
    blocks = {"copy": "[[text, text], [image, image]]", "average": "[[text, average], [image, average]]"}
    concatenation = "concatenation along the hidden dimension"

    def rule(name: str, target: Skeleton) -> tuple[str, Compute]:
        shape, old = target.shapes[name], pair.text.skeleton.shapes[name]
        if name in target.vocabulary_tensors:
            operation = "rows side by side; a parent's mean row where it has none"
            if scale == 1 or name != target.input_table:
                return operation, rows(divisor=1)
            operation = f"{operation}; divided by {scale:.4g}, by which the wider embedding multiplies more"
            return operation, rows(divisor=scale)
        if scale != 1 and target.input_table == target.output_table and name == f"{target.norm}weight":
            operation = f"{concatenation}; times {scale:.4g}, by which the tied head's rows are smaller"
            return operation, Later("widening.scaled_norm", scale=scale, shift=family.norm_shift)
        growth = [new // before for new, before in zip(shape, old, strict=True)]
        if 2 not in growth:
            raise ValueError(
                f"width fusion doubles the heads, and {name} {list(shape)} is one for all of them, where each parent "
                "has its own; uniform (--method uniform) averages it, cross (--method cross) keeps both"
            )
        if growth == [2, 2]:
            return blocks[init], Later("widening.widen", init=init)
        return concatenation, Later("widening.beside" if growth[0] == 1 else "widening.concatenated")

    return single_plan(pair, "width", settings, rule)
