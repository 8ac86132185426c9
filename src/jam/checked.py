"""A check that settings have their declared types, for recipes, options and Python.

>>> from dataclasses import dataclass
>>> @dataclass
... class Settings:
...     lr: float = 1e-4
...     def __post_init__(self):
...         check_fields(self)
>>> Settings(lr=None)
Traceback (most recent call last):
ValueError: lr is null; it must be a number
"""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path, PurePath
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

LARGEST = 2**62  # whole number: half the range of 64-bit integers
SHOWN = 80  # characters of a value in a message
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
LIST_OF = {int: "1, 2", float: "0.5, 1", str: "one, other"}


def check_fields(settings: Any) -> None:
    """Raises ValueError, which names the first field of a dataclass whose value does not have the declared type.

    A path in a field of text becomes text: names of files are given either way.
    """
    hints = _hints(type(settings))  # type: ignore[arg-type]
    for field in fields(settings):
        hint, value = hints[field.name], getattr(settings, field.name)
        if isinstance(value, PurePath) and fits(hint, ""):
            object.__setattr__(settings, field.name, str(value))
        else:
            require_kind(hint, value, field.name)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def require_kind(hint: Any, value: Any, where: str) -> None:
    """Raises ValueError unless a value has a type; `where` names the value."""
    if fits(hint, value):
        return
    if isinstance(value, float) and not math.isfinite(value) and fits(hint, 1.0):
        raise ValueError(f"{where} is {value}; it must be a finite number")
    if type(value) is int and abs(value) > LARGEST and fits(hint, 1):
        raise ValueError(f"{where} is {shown(value)}; whole numbers end at 2^62")
    raise ValueError(f"{where} is {shown(value)}; it must be {kind(hint) or hint}")


def fits(hint: Any, value: Any) -> bool:
    """True if a value has a type. Numbers must be finite and at most `LARGEST`; a whole number is a number, too."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(part, value) for part in parts)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in parts)
    if origin is list or parts[1:] == (...,):
        return isinstance(value, list | tuple) and all(fits(parts[0], entry) for entry in value)
    if origin is tuple:
        return isinstance(value, list | tuple) and len(value) == len(parts) and all(map(fits, parts, value))
    if origin is dict:
        return isinstance(value, dict) and all(fits(parts[0], k) and fits(parts[1], v) for k, v in value.items())
    if hint is float:
        return type(value) in (int, float) and abs(value) <= LARGEST  # false for infinity and NaN
    if hint is int:
        return type(value) is int and abs(value) <= LARGEST
    if hint is Path:
        return isinstance(value, str | Path)
    if hint is Any:
        return True
    return value is None if hint is NoneType else isinstance(value, hint)


def kind(hint: Any) -> str:
    """A type in words, or "" if there are no words for the type."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        *first, last = map(str, parts)
        return f"{', '.join(first)} or {last}" if first else last
    if isinstance(hint, type) and origin is None:
        return KINDS.get(hint, "")
    if origin is tuple and parts[1:] != (...,):
        return f"[{', '.join(kind(part) for part in parts)}]"
    if origin in (list, tuple):
        if is_dataclass(parts[0]):
            return f"a list, like [{{{fields(parts[0])[0].name}: ...}}]"
        return f"a list, like [{', '.join(LIST_OF.get(part, '...') for part in parts)}]"
    if origin is dict:
        return f"a mapping of {kind(parts[0])} to {kind(parts[1])}"
    kinds = [kind(part) for part in parts if part is not NoneType]
    return " or ".join(kinds) if all(kinds) else ""


def shown(value: Any) -> str:
    """A value for a message, shortened, with YAML's null, true and false."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    try:
        text = repr(value)
    except ValueError:  # a number of very many digits
        return "a number of very many digits"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
