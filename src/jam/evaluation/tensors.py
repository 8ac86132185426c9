"""Tensors and settings of a fused cross folder: each is made of the parents again, as fusion makes it.

Tensors are made in blocks of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PretrainedConfig

from jam.checkpoints import CheckpointReader, check_tensors
from jam.fusion import Pair, Parent, PlannedTensor, cross_again, made_blocks
from jam.models import CrossConfig
from jam.models.controls import missing_controls

COMMON = PretrainedConfig().to_dict().keys() - {"model_type"}
"""Fields that every config has; a decoder computes without them."""


@dataclass(frozen=True)
class ChangedRows:
    """A tensor of the fused model's own that is not what fusion makes of the parents.

    Args:
        tensor: its name in the folder.
        rows: how many of its rows differ.
        of: how many it has.
        token: what the first of these stands for; None: for all ids that have no row of their own.
    """

    tensor: str
    rows: int
    of: int
    token: str | None


@dataclass(frozen=True)
class ChangedSetting:
    """A field of a tower's config that is not what fusion makes of the parent's.

    Args:
        name: of the field.
        parent: what fusion makes of it; None where the config of such a parent has no such field.
        fused: what it is in the folder, likewise.
    """

    name: str
    parent: Any
    fused: Any


@dataclass(frozen=True)
class Changes:
    """How a folder differs from what fusion makes of its parents, but for rounding to its data type.

    New weights of the exchange are made of neither parent, and are not compared.

    Args:
        tensors: by role, names in the parent of what its tower has not as it is there.
        rows: of tensors that no parent has.
        settings: by role, fields of the tower's config.
    """

    tensors: dict[str, list[str]]
    rows: list[ChangedRows]
    settings: dict[str, list[ChangedSetting]]


def find_changes(
    reader: CheckpointReader, config: CrossConfig, parents: Mapping[str, Parent], dtype: torch.dtype
) -> Changes:
    """Compare every tensor that fusion makes of the parents, and the configs of both towers with theirs.

    Args:
        config: the folder's.
        parents: "text" and "image", with as many positions as the folder was fused for.
        dtype: the folder's data type.

    Raises:
        ValueError: the folder lacks tensors or has them in another shape, or a parent's do not fit its config.
    """
    for parent in parents.values():
        parent.check_weights()
    plan, pair = cross_again(config, parents["text"], parents["image"], dtype)
    check_tensors(reader.infos, {one.name: one.shape for one in plan.tensors}, str(reader.folder), reader.infos)
    made = {"text": plan.config.text_config, "image": plan.config.image_config}
    found = {"text": config.text_config, "image": config.image_config}
    settings = {role: _changed_settings(made[role], found[role]) for role in parents}
    changes = Changes({role: [] for role in parents}, [], settings)
    for tensor in plan.tensors:
        rows = _changed_rows(reader, tensor, pair) if tensor.sources else iter(())
        if (first := next(rows, None)) is None:
            continue
        module, _, inner = tensor.name.partition(".")
        role = module.removesuffix("_tower")
        if inner.startswith("model."):
            changes.tensors[role].append(inner.removeprefix("model."))
        else:
            count = 1 + sum(1 for _ in rows)
            changes.rows.append(ChangedRows(tensor.name, count, tensor.shape[0], _token(pair, role, inner, first)))
    return changes


def _changed_settings(made: PretrainedConfig, found: PretrainedConfig) -> list[ChangedSetting]:
    parent, fused = made.to_dict(), found.to_dict()
    names = sorted((parent.keys() | fused.keys()) - COMMON)
    both = (ChangedSetting(name, parent.get(name), fused.get(name)) for name in names)
    return [one for one in both if one.parent != one.fused]


def _changed_rows(reader: CheckpointReader, tensor: PlannedTensor, pair: Pair) -> Iterator[int]:
    """Numbers of the rows of a stored tensor that are not as planned."""
    start = 0
    for made in made_blocks(tensor, pair):
        unequal = reader.read_rows(tensor.name, start, start + len(made)) != made
        yield from (start + unequal.reshape(len(made), -1).any(1).nonzero().flatten()).tolist()
        start += len(made)


def _token(pair: Pair, role: str, name: str, row: int) -> str | None:
    """What a row of `text_input`, `absent_input` or `absent_output` stands for."""
    if name == "text_input":
        token = row
    elif name == "absent_input" and row == 0:
        return None
    else:
        rows = pair.text_rows if role == "text" else pair.image_rows
        token = missing_controls(pair.vocabulary, rows.row_of(pair.vocabulary))[row - (name == "absent_input")]
    tokenizer = pair.text.tokenizer if token < pair.vocabulary.text_size else None
    return (tokenizer and tokenizer.convert_ids_to_tokens(token)) or pair.vocabulary.name(token)
