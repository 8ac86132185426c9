"""Cross fusion (paper section 2.1.3): both parents whole, as two towers, and new blocks that connect the towers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

from jam.checkpoints.tensors import KINDS, kind_of
from jam.fusion.config import FuseConfig, Readout
from jam.fusion.method import FusionMethod
from jam.fusion.pair import Pair
from jam.fusion.parents import Parent
from jam.fusion.plan import COPY, Compute, FusionPlan, Later, PlannedTensor, Source
from jam.fusion.positions import StretchedPositions
from jam.fusion.skeleton import Shape
from jam.fusion.tokenizers import difference
from jam.models.cross_shapes import check_settings, tensor_shapes_of_cross
from jam.models.towers import family_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from jam.fusion.tables import ExtendedTable, Table
    from jam.models.cross_config import CrossConfig

ARCHITECTURE, MODEL_TYPE = "CrossForCausalLM", "jam_cross"
Step = tuple[tuple[Source, ...], str, Compute]


class Cross(FusionMethod):
    name = "cross"
    options = ("every", "readout", "seed", "context")
    library = "jam-fusion"
    reads_two_tokenizers = True

    def plan(self, pair: Pair, config: FuseConfig) -> FusionPlan:
        return cross(pair, config.every, config.readout, config.seed)

    def not_promised(self, options: Mapping[str, Any]) -> str | None:
        paper = options.get("readout") == "paper"
        return "the readout paper has one new head for both parents" if paper else None


def cross(pair: Pair, every: int = 2, readout: Readout = "exact", seed: int = 0) -> FusionPlan:
    """The plan of two towers with cross blocks after layers 0, `every`, 2 `every`, ...; no cross blocks if 0.

    Raises:
        ValueError: the pair does not fit a cross model (``paper`` needs equal hidden sizes).
    """
    parents = {"text": pair.text, "image": pair.image}
    rows = {"text": pair.text_rows, "image": pair.image_rows}
    decoders = {role: parent.settings for role, parent in parents.items()}
    check_settings(decoders["text"], decoders["image"], every, readout)
    shapes = tensor_shapes_of_cross(
        decoders,
        {role: parent.skeleton.shapes for role, parent in parents.items()},
        rows,
        pair.vocabulary,
        every,
        readout,
    )
    settings: dict[str, Any] = {
        "model_type": MODEL_TYPE,
        "architectures": [ARCHITECTURE],
        "dtype": KINDS[pair.kind][0],
        "text_config": decoders["text"].to_dict(),
        "image_config": decoders["image"].to_dict(),
        "vocabulary": pair.vocabulary.to_dict(),
        "image_grid": list(pair.image_grid or (1, 1)),  # no tensor depends on it
        "text_rows": asdict(pair.text_rows),
        "image_rows": asdict(pair.image_rows),
        "cross_every": every,
        "readout": readout,
    }
    rule = _Rule(pair, readout, seed)
    tensors = (PlannedTensor(name, shape, pair.kind, *rule(name, shape)) for name, shape in shapes.items())
    notes, counts = list(pair.notes), None
    if pair.pieces is not None:
        counts = pair.pieces.counts() if readout == "exact" else None
        notes.append(f"the parents' tokenizers differ ({pair.apart}); {_how_text_is_read(counts)}")
    return FusionPlan(
        "cross",
        settings,
        ARCHITECTURE,
        tuple(tensors),
        pair.vocabulary,
        pair.image_grid,
        None,
        notes,
        counts,
    )


def cross_again(config: CrossConfig, text: Parent, image: Parent, dtype: torch.dtype) -> tuple[FusionPlan, Pair]:
    """The plan and the pair of a fused folder; tensors from the parents are as in the folder, new tensors may differ.

    Args:
        config: the folder's config.
        text, image: the folder's parents, stretched to the towers' positions.
        dtype: the folder's data type.

    Raises:
        ValueError: the folder cannot have these parents.
    """
    height, width = config.image_grid
    text_rows, image_rows = config.parent_rows
    apart = difference(text.text_tokens, image.text_tokens) if image_rows.made_text else None
    pair = Pair(text, image, config.joint_vocabulary, text_rows, image_rows, (height, width), kind_of(dtype), [], apart)
    return cross(pair, config.cross_every, cast(Readout, config.readout)), pair


def _how_text_is_read(counts: dict[str, int] | None) -> str:
    if counts is None:
        return "the readout paper has one embedding: the image tower reads the text parent's rows too"
    return (
        "the image tower reads the text parent's tokens through its own tokenizer's pieces of the same strings: "
        f"{counts['exact']:,} tokens are one token there too, {counts['by_pieces']:,} are the mean of their pieces, "
        f"{counts['not_at_all']:,} have none and begin at its mean row"
    )


class _Rule:
    """From a tensor's name and shape in the cross model to its sources, operation and computation."""

    def __init__(self, pair: Pair, readout: Readout, seed: int) -> None:
        self.pair, self.seed = pair, seed
        self.identity_at_first = readout == "exact"
        self.std = getattr(pair.text.settings, family_of(pair.text.settings).initializer)

    def __call__(self, name: str, shape: Shape) -> Step:
        module, _, inner = name.partition(".")
        if module in ("text_tower", "image_tower"):
            return self._tower(module.removesuffix("_tower"), inner, shape)
        if module in ("to_text", "to_image"):
            if self.identity_at_first and name.endswith(("o_proj.weight", "fc2.weight")):
                return (), "new: 0, so that the exchange is the identity at first", Later("fresh.zeros", shape=shape)
            return self._random(name, shape, self.std)
        skeletons = self.pair.text.skeleton, self.pair.image.skeleton
        match module:
            case "embed_tokens":
                return self._merged(*(skeleton.input_table for skeleton in skeletons))
            case "lm_head":
                return self._merged(*(skeleton.output_table for skeleton in skeletons))
            case "embed_positions":
                role, skeleton = ("text", skeletons[0]) if skeletons[0].position_table else ("image", skeletons[1])
                assert skeleton.position_table is not None
                return self._copy(role, skeleton.position_table)
            case "norm":
                return self._copy("text", skeletons[0].norm + inner)
            case "fuse":
                return self._random(name, shape, shape[0] ** -0.5)
        raise AssertionError(f"no rule for {name}")

    def _tower(self, role: str, name: str, shape: Shape) -> Step:
        parent = self.pair.parent(role)
        if name.startswith("model."):
            return self._copy(role, name.removeprefix("model."))
        source = parent.skeleton.output_table if name == "absent_output" else parent.skeleton.input_table
        read = self.pair.read_rows(role)
        own = read[read < parent.skeleton.shapes[source][0]]  # a head without image codes has fewer rows
        sources, _, _ = self._copy(role, source)

        def compute(*found: Table) -> Iterator[Tensor]:
            from jam.fusion.rows import piece_means, repeated_mean

            table = self._table(role, source, found)
            if name == "text_input":
                assert self.pair.pieces is not None
                return piece_means(table, pieces=self.pair.pieces, read=own)
            return repeated_mean(table, index_V=own, rows=shape[0])

        if name == "text_input":
            return sources, "mean of the rows of a token's pieces, the parent's mean row where it has none", compute
        return sources, "the parent's mean row", compute

    def _copy(self, role: str, name: str) -> Step:
        """A parent's tensor: a copy, or computed where the checkpoint holds it in another form."""
        recipe = self.pair.parent(role).made.get(name)
        if recipe is None:
            return (Source(role, name),), "copy", COPY
        if isinstance(recipe, StretchedPositions):
            return (Source(role, name),), recipe.operation, recipe.blocks
        sources = tuple(Source(role, source) for source in recipe.sources)
        return sources, recipe.operation, lambda *found: self._table(role, name, found).stored_blocks()

    def _table(self, role: str, name: str, found: tuple[Table, ...]) -> Table | ExtendedTable:
        """The table of a parent's tensor, from the tables of its sources."""
        recipe = self.pair.parent(role).made.get(name)
        if recipe is None or recipe.rows_behind is None:
            return found[0]
        from jam.fusion.tables import ExtendedTable

        return ExtendedTable(found[0], recipe.rows_behind(*(table.whole() for table in found[1:])))

    def _merged(self, text_name: str, image_name: str) -> Step:
        pair = self.pair
        text_size = pair.vocabulary.text_size
        compute = Later("rows.merged_table", text_V=pair.text_index, image_V=pair.image_index, text_size=text_size)
        sources = Source("text", text_name), Source("image", image_name)
        return sources, "text rows from text, others from image, mean row for new ones", compute

    def _random(self, name: str, shape: Shape, std: float) -> Step:
        return (
            (),
            f"new: normal, standard deviation {std:.3g}",
            Later("fresh.normal", name=name, shape=shape, std=std, seed=self.seed),
        )
