"""Reading of foreign files: regular files of bounded size, with errors that name the file. Atomic writing of ours.

>>> settings = read_json(Path("parent/config.json"))
>>> with reading(Path("parent/config.json"), "get it anew"):
...     settings["hidden_dimension"]
Traceback (most recent call last):
jam.files.FileError: parent/config.json: it has no 'hidden_dimension'; get it anew
>>> write_text(Path("report.json"), "{}")
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

MAX_JSON, MAX_YAML = 2**29, 2**18  # bytes; the largest tokenizer.json have 30 MB, and YAML is slow to read
MAX_DEPTH = 100  # lists and objects in JSON, since our functions recurse as deep
MAX_NODES = 100_000  # of a YAML file, where every alias counts its nodes again
MAX_REASON = 300  # characters of another library's words in a message
ANEW = "get this file anew"
PANIC = "PanicException"  # error of libraries in Rust; its class cannot be imported, and is no Exception
# Parts of other libraries' messages about Python's inside: addresses, classes, errors within errors.
INSIDE = {r"(?: object)? at 0x[0-9a-fA-F]+": "", r"<class '([\w.]+)'>": r"\1", r"\b\w+Error\(['\"](.*?)['\"]\)": r"\1"}
INSIDE |= {r"\b(?:Type|Value|Key)Error: ": "", r"\bNoneType\b": "null"}


class FileError(ValueError):
    """A file cannot be used; the message names the file and says what to do."""


@contextmanager
def reading(
    path: str | Path, remedy: str = ANEW, passing: type[Exception] | tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Turn a library's error about a file's content in the block into a `FileError` that names the file.

    Args:
        path: the file, or a folder that contains the file.
        remedy: the end of the message, which says what to do.
        passing: kinds of errors with clear messages, which pass unchanged.
    """
    try:
        yield
    except FileError:
        raise
    except Exception as error:  # parsers raise any error for a damaged file
        if isinstance(error, passing) or "out of memory" in str(error):
            raise
        raise FileError(f"{path} cannot be read ({reason(error)}); {remedy}") from error
    except BaseException as error:
        if type(error).__name__ != PANIC:
            raise
        raise FileError(f"{path} cannot be read ({error}); {remedy}") from error


def reason(error: BaseException) -> str:
    """An error in one short line, equal in every run: without addresses of memory, and without Python's inside."""
    if isinstance(error, TypeError | AttributeError | IndexError):  # from code that expected another value
        return "a value in it is of another type, or in another place, than it should be"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:2]) if lines and lines[0].endswith(":") else "".join(lines[:1])
    for inside, plain in INSIDE.items():
        text = re.sub(inside, plain, text)
    text = text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}..."
    if isinstance(error, KeyError) and len(error.args) == 1:
        return f"it lacks {text}"
    told = isinstance(error, ValueError | OSError) or type(error) is Exception or type(error).__module__ != "builtins"
    return text if text and told else f"{type(error).__name__}{': ' if text else ''}{text}"


def as_path(value: Any, what: str) -> Path:
    """The path for an argument from Python. Raises ValueError for anything but a path; `what` names the argument."""
    if not isinstance(value, str | os.PathLike) or isinstance(path := os.fspath(value), bytes):
        raise ValueError(f"{what} is {value!r:.80}; give its name as a string or a Path")
    return Path(path)


def open_regular(path: str | Path) -> BinaryIO:
    """A file that is open for reading.

    Raises:
        FileError: the file does not exist, may not be read, or is not regular (a pipe could wait for ever).
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise FileError(f"{path} does not exist; give the right name") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        problem = error.strerror if isinstance(error, OSError) else error
        raise FileError(f"{path} cannot be opened ({problem}); give a file that may be read") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileError(f"{path} is no regular file; give one that lies on a disk")
    return os.fdopen(descriptor, "rb")


def read_bytes(path: str | Path, most: int) -> bytes:
    """The content of a file of at most `most` bytes. Raises FileError as `open_regular`, or for a larger file."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise FileError(f"{path} has {size} bytes, more than the {most} that such a file may have; {ANEW}")
        return file.read()


def read_json(path: str | Path, default: dict[str, Any] | None = None, remedy: str = ANEW) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        default: result if there is no file; None: a missing file is an error.
        remedy: the end of a message, which says what to do.

    Raises:
        FileError: the file holds anything but an object, or does not exist.
    """
    if default is not None and not os.path.lexists(path):
        return default
    value = parse_json(read_bytes(path, MAX_JSON), str(path), remedy)
    if not isinstance(value, dict):
        raise FileError(f"{path} holds {kind_of(value)} where an object is expected; {remedy}")
    return value


def parse_json(content: str | bytes, where: str, remedy: str = ANEW) -> Any:
    """The value in a JSON text; `where` names the text in errors. Raises FileError."""
    try:
        value = json.loads(content)
    except RecursionError:
        raise _too_deep(where, remedy) from None
    except ValueError as error:  # UTF-8, grammar, or a number of very many digits
        raise FileError(f"{where} is not valid JSON: {reason(error)}; {remedy}") from None
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH + 1):
        if not level:
            return value
        inner = (part for entry in level for part in (entry.values() if isinstance(entry, dict) else entry))
        level = [part for part in inner if isinstance(part, dict | list)]
    raise _too_deep(where, remedy)


def read_yaml(path: str | Path) -> Any:
    """The value in a YAML file. Raises FileError if the file is no YAML, or huge with its aliases expanded."""
    return parse_yaml(read_bytes(path, MAX_YAML), str(path))


def parse_yaml(content: str | bytes, where: str) -> Any:
    """The value in a YAML text; `where` names the text in errors. Raises FileError as `read_yaml`."""
    import yaml

    try:
        loader = _yaml_loader()(content)
        root = loader.get_single_node()
        if root is not None and _nodes(root, {}) > MAX_NODES:
            raise FileError(f"{where} refers to its own parts so often that it has more than {MAX_NODES} in all")
        return None if root is None else loader.construct_document(root)
    except FileError:
        raise
    except RecursionError:
        raise FileError(f"{where} is not valid YAML: it is nested too deep") from None
    except Exception as error:  # constructors raise any error for values that look like dates or numbers
        problem = reason(error)
        if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
            doing = f"{error.context}, " if error.context else ""
            problem = f"{doing}{error.problem}, line {error.problem_mark.line + 1}"
        raise FileError(f"{where} is not valid YAML: {problem[:MAX_REASON]}") from None


@cache
def _yaml_loader() -> Any:
    """The safe loader, with 1e-3 as a number as in YAML 1.2, and an error for a repeated key."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            names = set[str]()
            for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
                if isinstance(key, yaml.ScalarNode) and key.value in names:
                    raise yaml.MarkedYAMLError(problem=f"the key {key.value} twice", problem_mark=key.start_mark)
                names.add(str(key.value))
            return super().construct_mapping(node, deep)

    number = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    return Loader


def _nodes(node: Any, known: dict[int, int]) -> int:
    """The number of nodes from `node` down, with each alias expanded; a node inside itself gives too many."""
    if isinstance(node.value, str):
        return 1
    if id(node) not in known:
        known[id(node)] = MAX_NODES + 1  # while the parts are counted
        parts = (part for entry in node.value for part in (entry if isinstance(entry, tuple) else (entry,)))
        known[id(node)] = 1 + sum(_nodes(part, known) for part in parts)
    return known[id(node)]


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a name beside `path`; the file or folder written there is renamed to `path` when the block ends.

    Readers see the old or the new contents, never a part, even after an error or a kill. A device or pipe
    (``/dev/stdout``) is written directly, and a link stays a link.
    """
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        _require_reader(path)
        yield Path(path)
        return
    path = Path(os.path.realpath(path))
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    remove(partial)  # left by a killed process that had our id
    try:
        yield partial
        if os.path.lexists(partial):
            rename_over(partial, path)
    except BaseException as error:
        remove(partial)
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def _require_reader(path: str | Path) -> None:
    """Raises FileError for a pipe that nobody reads, since opening it for writing would wait for ever."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise FileError(f"{path} is a pipe that nobody reads; remove it, or choose another place") from None
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write a file atomically."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file atomically."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def rename_over(new: Path, path: Path) -> None:
    """Rename `new` to `path`. Anything in a folder's way is first moved aside, since a rename cannot replace it."""
    if path.is_dir() and not new.is_dir():
        raise FileError(f"{path} is a folder, where a file is to be written; move it away")
    if not new.is_dir() or not os.path.lexists(path):
        os.replace(new, path)
        return
    old = path.with_name(f".{path.name}.old-{os.getpid()}")
    path.rename(old)
    try:
        new.rename(path)
    except BaseException:
        old.rename(path)
        raise
    remove(old)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _too_deep(where: str, remedy: str) -> FileError:
    return FileError(f"{where} is nested deeper than {MAX_DEPTH} lists and objects; {remedy}")


def kind_of(value: Any) -> str:
    """The kind of a JSON value in words."""
    names = {list: "a list", dict: "an object", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
