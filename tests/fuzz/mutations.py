"""Damage: to values, to bytes, to files. Each draws from a generator, so that a seed makes the same damage."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

HUGE = 10**30
# What stands where something else should.
ODD: list[Any] = [
    None, "", "x", "none", 0, -1, 1, 7, 2.5, -0.5, HUGE, -HUGE, 2**31, 2**63, 10**12, 1e308, float("inf"),
    float("-inf"), float("nan"), True, False, [], {}, [None], [1], ["x"], [[1]], {"x": 1}, {"": None}, "\0", "../x",
    "/dev/zero", "é", "\ud800", "a\nb", "null", "1e400", "9" * 5000, " ", "</s>", "<image>", "cuda:99", "{{ x }}",
]  # fmt: skip


def deep(depth: int, rng: random.Random) -> Any:
    """Lists, or objects, within each other."""
    value: Any = 1
    for _ in range(depth):
        value = [value] if rng.random() < 0.5 else {"x": value}
    return value


def odd(rng: random.Random) -> Any:
    return deep(rng.choice((5, 90, 300)), rng) if rng.random() < 0.06 else rng.choice(ODD)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where the parts of a value are: keys and numbers from the outside in; long lists have their ends only."""
    if isinstance(value, dict):
        inner: list[Any] = list(value)
    elif isinstance(value, list):
        inner = list(range(len(value))) if len(value) < 12 else [0, 1, len(value) - 1]
    else:
        return []
    return [found for key in inner for found in [(*path, key), *places(value[key], (*path, key))]]


def changed(value: Any, rng: random.Random) -> tuple[Any, str]:
    """A copy with one part gone, or odd, or exchanged with another one; and what was done."""
    value = json.loads(json.dumps(value))
    found = places(value)
    if not found or rng.random() < 0.03:
        return odd(rng), "another value"
    path = rng.choice(found)
    holder = _at(value, path[:-1])
    kind = rng.choice(("delete", "odd", "odd", "odd", "exchange", "scale", "more"))
    if kind == "delete":
        del holder[path[-1]]
    elif kind == "exchange":
        other = rng.choice(found)
        if other[: len(path)] == path or path[: len(other)] == other:
            return changed(value, rng)
        there = _at(value, other[:-1])
        holder[path[-1]], there[other[-1]] = there[other[-1]], holder[path[-1]]
        return value, f"exchange {path} and {other}"
    elif kind == "scale" and type(holder[path[-1]]) in (int, float):
        holder[path[-1]] = rng.choice((holder[path[-1]] + 1, holder[path[-1]] * 10**9, -holder[path[-1]], 0))
    elif kind == "more":
        if isinstance(holder, dict):
            holder[rng.choice(("x", "model_type", "type", "auto_map", "dtype", ""))] = odd(rng)
        else:
            holder.insert(path[-1], odd(rng))
    else:
        holder[path[-1]] = odd(rng)
    return value, f"{kind} {path}"


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def as_json(value: Any, rng: random.Random) -> bytes:
    """As `json` writes it, now and then with a key twice, or with a number that is none."""
    text = json.dumps(value)
    if rng.random() < 0.05 and text.startswith("{") and len(text) > 2:
        text = text[:-1] + ", " + text[1:]
    return text.encode(errors="surrogatepass")


def flipped(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return b"\0"
    changed_bytes = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed_bytes[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed_bytes)


BYTES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "truncated": lambda data, rng: data[: rng.randrange(len(data) + 1)],
    "flipped": flipped,
    "empty": lambda data, rng: b"",
    "zeros": lambda data, rng: bytes(len(data)),
    "noise": lambda data, rng: rng.randbytes(rng.choice((1, 8, 100, len(data)))),
    "longer": lambda data, rng: data + rng.randbytes(rng.choice((1, 8, 4096))),
    "not UTF-8": lambda data, rng: data[: (half := rng.randrange(len(data) + 1))] + b"\xff\xfe" + data[half:],
    "a piece twice": lambda data, rng: data[: (half := rng.randrange(len(data) + 1))] + data[half // 2 :],
    "UTF-16": lambda data, rng: data.decode(errors="replace").encode("utf-16"),
    "deep": lambda data, rng: b"[" * rng.choice((200, 100_000)),
    "other format": lambda data, rng: rng.choice(
        (b"PK\x03\x04" + data, b"\x1f\x8b" + data, b"<html>404</html>", b"null")
    ),
}


def damage_bytes(path: Path, rng: random.Random) -> str:
    name = rng.choice(list(BYTES))
    path.write_bytes(BYTES[name](path.read_bytes(), rng))
    return f"{path.name}: {name}"


def damage_json(path: Path, rng: random.Random) -> str:
    value, what = changed(json.loads(path.read_bytes()), rng)
    path.write_bytes(as_json(value, rng))
    return f"{path.name}: {what}"


def replace_file(path: Path, rng: random.Random) -> str:
    """The file is gone, or something else stands in its place."""
    others = [other for other in path.parent.iterdir() if other.is_file() and other != path]
    kind = rng.choice(("missing", "folder", "pipe", "loop", "dangling", "unreadable", "another file"))
    if kind == "another file" and others:
        shutil.copyfile(other := rng.choice(sorted(others)), path)
        return f"{path.name}: a copy of {other.name}"
    if kind == "unreadable":
        path.chmod(0)
        return f"{path.name}: unreadable"
    path.unlink()
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "loop":
            path.symlink_to(path.name)
        case "dangling":
            path.symlink_to("nothing")
    return f"{path.name}: {kind}"


def damage(folder: Path, rng: random.Random) -> tuple[Path, str]:
    """Damage one file below a folder, JSON ones more often; the file, and what was done."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    weights = [4 if path.suffix == ".json" else 1 for path in files]
    (path,) = rng.choices(files, weights)
    chance = rng.random()
    if chance < 0.12:
        return path, replace_file(path, rng)
    if path.suffix == ".json" and chance < 0.8:
        return path, damage_json(path, rng)
    return path, damage_bytes(path, rng)
