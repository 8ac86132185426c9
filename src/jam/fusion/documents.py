"""In which layout a fused model reads and writes documents."""

from __future__ import annotations

from jam.fusion.parents import Parent
from jam.layout import ImageLayout
from jam.models.towers import family_of

FAMILY, PAPER = "family", "paper"


def find_layout(
    text: Parent, image: Parent, one_tokenizer: bool, chosen: str, plan_only: bool, notes: list[str]
) -> ImageLayout | None:
    """The layout of an image parent's documents; None: as in the paper.

    An image parent with a manifest keeps the layout it was trained in. One from elsewhere has the first layout that its
    family states and its tokenizer has the tokens for.

    Args:
        one_tokenizer: whether both parents have the same text ids.
        chosen: "family", "paper" or the name of a layout that the family states.

    Raises:
        ValueError: the layout chosen is not known, or not one that these parents can write.
    """
    stated = family_of(image.settings).layouts
    names = [layout.name for layout in stated]
    if chosen not in (FAMILY, PAPER, *names):
        known = ", ".join([FAMILY, PAPER, *names])
        raise ValueError(
            f"--layout {chosen}: the image parent, a {image.settings.model_type}, has no such one; {known}"
        )
    trained = image.manifest.vocabulary if image.manifest else None
    if trained is not None and chosen == FAMILY and one_tokenizer:
        return ImageLayout.from_dict(trained["layout"]) if trained.get("layout") else None
    if chosen == PAPER or not stated:
        return None
    if text.tokenizer is None:
        if chosen == FAMILY and plan_only:
            notes.append(
                f"documents are those of the paper: no tokenizer tells whether it has the tokens of {names[0]}"
            )
            return None
        raise ValueError(f"the text parent {text.folder} has no tokenizer, in which the layout {chosen} is written")
    reasons = []
    for layout in stated:
        if chosen not in (FAMILY, layout.name):
            continue
        reason = layout.missing(text.tokenizer)
        if reason is None:
            return layout.resolve(text.tokenizer)
        reasons.append(f"{layout.name}: {reason}")
    if chosen != FAMILY:
        raise ValueError(f"--layout {chosen} cannot be written, {reasons[0]}; take --layout {PAPER}")
    notes.append(
        f"documents are those of the paper, which the image parent has not seen ({'; '.join(reasons)}); align the model"
    )
    return None
