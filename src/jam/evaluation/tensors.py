"""Comparison of a fused cross folder's tensors and settings with a new fusion of the parents.

The new tensors are computed in blocks of rows.
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
"""Fields of every config, which do not change what a decoder computes."""


@dataclass(frozen=True)
class ChangedRows:
    """A tensor of the fused model alone that differs from a new fusion.

    Args:
        tensor: name of the tensor in the folder.
        rows: number of rows that differ.
        of: number of all rows.
        token: token of the first row that differs; None: the row of all ids without a row of their own.
    """

    tensor: str
    rows: int
    of: int
    token: str | None


@dataclass(frozen=True)
class ChangedSetting:
    """A field of a tower's config that differs from a new fusion.

    Args:
        name: name of the field.
        parent: value in a new fusion; None if the config has no such field.
        fused: value in the folder, likewise.
    """

    name: str
    parent: Any
    fused: Any


@dataclass(frozen=True)
class Changes:
    """Differences between a folder and a new fusion of its parents in the folder's data type.

    New weights of the exchange come from neither parent, and are not compared.

    Args:
        tensors: by role, names of the parent's tensors that differ in the tower.
        rows: tensors that no parent has.
        settings: by role, fields of the tower's config.
    """

    tensors: dict[str, list[str]]
    rows: list[ChangedRows]
    settings: dict[str, list[ChangedSetting]]


def find_changes(
    reader: CheckpointReader, config: CrossConfig, parents: Mapping[str, Parent], dtype: torch.dtype
) -> Changes:
    """The changes of all tensors that fusion computes from the parents, and of the configs of both towers.

    Args:
        config: config of the folder.
        parents: the "text" and "image" parent, with the number of positions that the folder was fused for.
        dtype: data type of the folder.

    Raises:
        ValueError: the folder's tensors are missing or have another shape, or a parent's do not fit its config.
    """
    for parent in parents.values():
        parent.check_weights()
    plan, pair = cross_again(config, parents["text"], parents["image"], dtype)
    check_tensors(reader.infos, {entry.name: entry.shape for entry in plan.tensors}, str(reader.folder), reader.infos)
    planned = {"text": plan.config.text_config, "image": plan.config.image_config}
    found = {"text": config.text_config, "image": config.image_config}
    settings = {role: _changed_settings(planned[role], found[role]) for role in parents}
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


def _changed_settings(planned: PretrainedConfig, found: PretrainedConfig) -> list[ChangedSetting]:
    parent, fused = planned.to_dict(), found.to_dict()
    names = sorted((parent.keys() | fused.keys()) - COMMON)
    both = (ChangedSetting(name, parent.get(name), fused.get(name)) for name in names)
    return [setting for setting in both if setting.parent != setting.fused]


def _changed_rows(reader: CheckpointReader, tensor: PlannedTensor, pair: Pair) -> Iterator[int]:
    """Numbers of the rows of a stored tensor that are not as planned."""
    start = 0
    for block in made_blocks(tensor, pair):
        unequal = reader.read_rows(tensor.name, start, start + len(block)) != block
        yield from (start + unequal.reshape(len(block), -1).any(1).nonzero().flatten()).tolist()
        start += len(block)


def _token(pair: Pair, role: str, name: str, row: int) -> str | None:
    """The token of a row of `text_input`, `absent_input` or `absent_output`; None for a row of many ids."""
    if name == "text_input":
        token = row
    elif name == "absent_input" and row == 0:
        return None
    else:
        rows = pair.text_rows if role == "text" else pair.image_rows
        token = missing_controls(pair.vocabulary, rows.row_of(pair.vocabulary))[row - (name == "absent_input")]
    tokenizer = pair.text.tokenizer if token < pair.vocabulary.text_size else None
    return (tokenizer and tokenizer.convert_ids_to_tokens(token)) or pair.vocabulary.name(token)
