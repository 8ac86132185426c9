"""Loading of a single parent, or of a single tower of a fused folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers.initialization import no_init_weights

from jam.checkpoints import CheckpointReader, check_tensors
from jam.fusion import Parent
from jam.fusion.skeleton import tensor_shapes
from jam.models import CrossConfig, JointTower, SingleDecoder
from jam.vocabulary import ParentRows, Vocabulary

WRITING = ("o_proj.weight", "fc2.weight")  # matrices of a cross block that write to the stream


def load_parent(
    parent: Parent,
    vocabulary: Vocabulary,
    image_grid: list[int],
    rows: ParentRows,
    device: str | torch.device,
    dtype: torch.dtype,
    made_in: torch.dtype | None = None,
) -> SingleDecoder:
    """A parent that reads and writes joint ids.

    Args:
        made_in: data type to which computed tensors are rounded; None: the parent's.

    Raises:
        ValueError: the parent's weights do not fit the parent's config.
    """
    parent.check_weights()
    with _without_weights(device, dtype):
        decoder = SingleDecoder(parent.config, vocabulary, image_grid, rows)
    decoder.model.tie_weights()
    _fill(decoder.model, parent.skeleton.shapes, lambda name: parent_tensor(parent, name, made_in or parent.dtype))
    return decoder.eval()


def load_tower(
    reader: CheckpointReader, config: CrossConfig, role: str, device: str | torch.device, dtype: torch.dtype
) -> JointTower:
    """One tower of a cross model with the readout ``exact``; no other tensors of the folder are read.

    Raises:
        ValueError: tensors are missing, not expected or of another shape.
    """
    decoder = config.text_config if role == "text" else config.image_config
    rows = config.parent_rows[role == "image"]
    with _without_weights(device, dtype):
        tower = JointTower(decoder, config.joint_vocabulary, rows)
    tower.model.tie_weights()
    prefix, shapes = f"{role}_tower.", tensor_shapes(tower)
    infos = {name.removeprefix(prefix): info for name, info in reader.infos.items() if name.startswith(prefix)}
    check_tensors(infos, shapes, f"the {role} tower of {reader.folder}", tower.all_tied_weights_keys)
    _fill(tower, shapes, lambda name: reader.read(prefix + name))
    return tower.eval()


def parent_tensor(parent: Parent, name: str, made_in: torch.dtype) -> Tensor:
    """The tensor `name` of the parent's decoder: as stored, or computed from other tensors and rounded."""
    recipe = parent.made.get(name)
    if recipe is None:
        return parent.table(name).stored()
    first, *rest = (parent.table(source) for source in recipe.sources)
    return recipe.compute(first.stored(), *(table.whole() for table in rest)).to(made_in)


def exchange_is_identity(reader: CheckpointReader) -> bool:
    """True if the cross blocks of a cross model add nothing to the streams, so that each tower computes alone."""
    blocks = (name for name in reader.infos if name.startswith(("to_text.", "to_image.")) and name.endswith(WRITING))
    return not any(bool(reader.read(name).any()) for name in blocks)


@contextmanager
def _without_weights(device: str | torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Make modules in the block with uninitialised weights on `device`, of type `dtype`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device), no_init_weights():
            yield
    finally:
        torch.set_default_dtype(before)


def _fill(module: nn.Module, names: Iterable[str], read: Callable[[str], Tensor]) -> None:
    """Copy tensors into a module one by one, so that at most one tensor is in memory twice."""
    own = module.state_dict()
    for name in names:
        own[name].copy_(read(name))
