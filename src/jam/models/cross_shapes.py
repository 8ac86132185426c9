"""Checks of a cross model's settings, and the shapes of its tensors, without building the model.

tests/models/test_configs_without_classes.py compares the shapes with `CrossForCausalLM`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jam.models.controls import check_image_head, check_rows, missing_controls
from jam.models.towers import family_of
from jam.vocabulary import ParentRows, Vocabulary

READOUTS = ("exact", "paper")
Shapes = dict[str, tuple[int, ...]]


def check_settings(text: Any, image: Any, cross_every: int, readout: str) -> None:
    """Raises ValueError for decoders that do not fit a cross model.

    Args:
        text, image: settings or configs of both decoders.
    """
    if readout not in READOUTS:
        raise ValueError(f"readout {readout!r} does not exist; choose one of {', '.join(READOUTS)}")
    if cross_every < 0:
        raise ValueError(f"cross_every is {cross_every}; it must be 1 or more, or 0 for no cross blocks")
    if readout == "paper" and text.hidden_size != image.hidden_size:
        raise ValueError(
            f"hidden sizes differ: text {text.hidden_size}, image {image.hidden_size}; the readout 'paper' has one "
            "embedding for both towers and needs equal sizes, the readout 'exact' does not"
        )
    for role, config in (("text", text), ("image", image)):
        width = getattr(config, "word_embed_proj_dim", config.hidden_size)
        if readout == "paper" and width != config.hidden_size:
            raise ValueError(
                f"the {role} parent's embedding is {width} wide and its layers {config.hidden_size}; the readout "
                "'paper' shares one embedding without such a projection, the readout 'exact' keeps it"
            )
        if readout == "paper" and family_of(config).image_head is not None:
            raise ValueError(
                f"the {role} parent ({config.model_type}) writes image codes with a module of its own; the readout "
                "'paper' has one head of rows for both towers, the readout 'exact' keeps the module"
            )


def exchanges(text: Any, image: Any, cross_every: int) -> list[int]:
    """The layers after which the towers exchange: 0, k, 2k, ... up to the last layer of the shallower tower."""
    shared = min(text.num_hidden_layers, image.num_hidden_layers)
    return list(range(0, shared, cross_every)) if cross_every else []


def tensor_shapes_of_cross(
    settings: Mapping[str, Any],
    shapes: Mapping[str, Mapping[str, tuple[int, ...]]],
    rows: Mapping[str, ParentRows],
    vocabulary: Vocabulary,
    cross_every: int,
    readout: str,
) -> Shapes:
    """Shape of every tensor of a cross model, in the class's order.

    Args:
        settings: settings of the "text" and the "image" decoder.
        shapes: shapes of both decoders' tensors.
        rows: rows of the joint ids in both decoders.

    Raises:
        ValueError: the tables lack rows of joint ids.
    """
    found: Shapes = {}
    if readout == "exact":
        if not rows["image"].has_images:
            raise ValueError("the image parent has no image codes: image_rows say neither image_start nor image_rows")
        for role, own in shapes.items():
            found |= _joint_tower(role, settings[role], own, rows[role], vocabulary)
    else:
        found |= _shared(settings, shapes, vocabulary)
    text, image = settings["text"], settings["image"]
    count = len(exchanges(text, image, cross_every))
    for name, receiver, sender in (("to_text", text, image), ("to_image", image, text)):
        for block in range(count):
            found |= _block(f"{name}.{block}", receiver, sender.hidden_size)
    return found


def _joint_tower(
    role: str, settings: Any, shapes: Mapping[str, tuple[int, ...]], rows: ParentRows, vocabulary: Vocabulary
) -> Shapes:
    family, tower = family_of(settings), f"{role}_tower"
    embedding = shapes[f"{family.embedding}.weight"]
    head = shapes.get(f"{family.head}.weight", embedding)
    row_of = rows.row_of(vocabulary)
    check_rows(row_of, settings.vocab_size, f"the {role} parent")
    if family.image_head is not None:
        check_image_head(vocabulary, rows, settings.model_type, head[0], embedding[0] - head[0])
    missing = len(missing_controls(vocabulary, row_of))
    found: Shapes = {f"{tower}.absent_input": (1 + missing, embedding[1])}
    if missing:
        found[f"{tower}.absent_output"] = (missing, head[1])
    if rows.made_text:
        found[f"{tower}.text_input"] = (vocabulary.text_size, embedding[1])
    return found | {f"{tower}.model.{name}": shape for name, shape in shapes.items()}


def _shared(
    settings: Mapping[str, Any], shapes: Mapping[str, Mapping[str, tuple[int, ...]]], vocabulary: Vocabulary
) -> Shapes:
    """Shapes for the readout ``paper``: towers without tables and final norms, and shared tables and norm."""
    found: Shapes = {}
    size = settings["text"].hidden_size
    families = {role: family_of(decoder) for role, decoder in settings.items()}
    for role, own in shapes.items():
        family = families[role]
        dropped = [part for part in (family.embedding, family.positions, family.norm, family.head) if part]
        kept = {name: shape for name, shape in own.items() if name.rpartition(".")[0] not in dropped}
        found |= {f"{role}_tower.model.{name}": shape for name, shape in kept.items()}
    found["embed_tokens.weight"] = (vocabulary.size, size)
    tables = [shapes[role][f"{family.positions}.weight"] for role, family in families.items() if family.positions]
    if tables:
        found["embed_positions.weight"] = tables[0]
    found["fuse.weight"] = (size, 2 * size)
    norm = f"{families['text'].norm}."
    found |= {
        f"norm.{name.removeprefix(norm)}": shape for name, shape in shapes["text"].items() if name.startswith(norm)
    }
    if not all(decoder.tie_word_embeddings for decoder in settings.values()):
        found["lm_head.weight"] = (vocabulary.size, size)
    return found


def _block(name: str, receiver: Any, other_size: int) -> Shapes:
    """Shapes of a `CrossBlock`."""
    size, heads = receiver.hidden_size, receiver.num_attention_heads
    inner = heads * (getattr(receiver, "head_dim", None) or size // heads)
    return {
        f"{name}.q_proj.weight": (inner, size),
        f"{name}.k_proj.weight": (inner, other_size),
        f"{name}.v_proj.weight": (inner, other_size),
        f"{name}.o_proj.weight": (size, inner),
        f"{name}.fc1.weight": (4 * size, size),
        f"{name}.fc2.weight": (size, 4 * size),
    }
