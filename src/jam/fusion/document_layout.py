"""The documents of a fused model: how they begin and end, frame pictures and ask questions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jam.codec.text import special_names
from jam.files import read_json
from jam.fusion.parents import Parent
from jam.layout import ImageLayout
from jam.models.towers import family_of

FAMILY, CHAT, PAPER = "family", "chat", "paper"


@dataclass(frozen=True)
class Conventions:
    """What a text parent's tokenizer says of documents; the fields are fields of `Vocabulary`."""

    begin: tuple[int, ...] | None = None
    ends: tuple[int, ...] = ()
    chat_template: str | None = None


def find_conventions(text: Parent, eos_id: int, chosen: str, notes: list[str]) -> Conventions:
    """How documents without a family's layout begin, end and ask.

    A parent with a manifest keeps what the manifest says. For any other parent, a document begins as its tokenizer
    begins a text, asks by its chat template, and ends with the end of a turn or an eos token of
    ``generation_config.json``.

    Args:
        chosen: the option ``--layout``.

    Raises:
        ValueError: ``--layout chat``, and there is no chat template.
    """
    recorded = text.manifest.vocabulary if text.manifest else None
    template = recorded.get("chat_template") if recorded else _template(text.tokenizer)
    if chosen == CHAT and template is None:
        raise ValueError(
            f"--layout chat: the tokenizer of the text parent {text.folder} has no chat template; leave the option out"
        )
    template = None if chosen == PAPER else template
    if recorded is not None:
        return Conventions(recorded.get("begin"), tuple(recorded.get("ends", ())), template)
    if text.tokenizer is None:
        return Conventions()
    opening = opening_of(text.tokenizer)
    ends = [_turn_end(text.tokenizer)] if template is not None else []
    ends += _listed(read_json(text.folder / "generation_config.json", {}).get("eos_token_id"))
    special = set(special_names(text.tokenizer).values()) - {eos_id}  # configs may name letters, by their defaults
    known = (token for token in ends if token in special)
    if template is not None:
        notes.append("questions are written by the text parent's chat template (--layout paper leaves it out)")
    return Conventions(None if opening == (eos_id,) else opening, tuple(dict.fromkeys(known)), template)


def _template(tokenizer: Any | None) -> str | None:
    """The digest of the tokenizer's chat template; without a template, the renderer is not imported."""
    if tokenizer is None or not tokenizer.chat_template:
        return None
    from jam.codec.chat_template import template_digest

    return template_digest(tokenizer)


def _turn_end(tokenizer: Any) -> int | None:
    from jam.codec.chat_template import turn_end

    return turn_end(tokenizer)


def opening_of(tokenizer: Any) -> tuple[int, ...]:
    """The ids that a tokenizer puts before a text."""
    whole, plain = (tokenizer("a", add_special_tokens=added).input_ids for added in (True, False))
    places = range(len(whole) - len(plain) + 1)
    return tuple(whole[: next((place for place in places if whole[place : place + len(plain)] == plain), 0)])


def _listed(ids: Any) -> list[int]:
    """A config's id or list of ids as a list, without entries that are no ids."""
    return [token for token in (ids if isinstance(ids, list) else [ids]) if type(token) is int]


def find_layout(
    text: Parent, image: Parent, one_tokenizer: bool, chosen: str, plan_only: bool, notes: list[str]
) -> ImageLayout | None:
    """The layout of an image parent's documents; None: as in the paper.

    An image parent with a manifest keeps the layout that it was trained in. Any other image parent gets the first
    layout of its family whose tokens the tokenizer has.

    Args:
        one_tokenizer: True if both parents have the same text ids.
        chosen: "family", "chat", "paper" or the name of a layout of the family.

    Raises:
        ValueError: the chosen layout is not known, or these parents cannot write it.
    """
    stated = family_of(image.settings).layouts
    names = [layout.name for layout in stated]
    if chosen not in (FAMILY, CHAT, PAPER, *names):
        known = ", ".join([FAMILY, CHAT, PAPER, *names])
        raise ValueError(
            f"--layout {chosen}: the image parent, a {image.settings.model_type}, has no such layout; {known}"
        )
    recorded = image.manifest.vocabulary if image.manifest else None
    if recorded is not None and chosen == FAMILY and one_tokenizer:
        return ImageLayout.from_dict(recorded["layout"]) if recorded.get("layout") else None
    if chosen in (CHAT, PAPER) or not stated:
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
