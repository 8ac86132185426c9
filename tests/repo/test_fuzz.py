"""A few cases of the breaker, always the same (`make fuzz` tries many), and what it is to notice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.__main__ import targets, try_case
from fuzz.outcomes import CLEAR, HANG, LOSS, OK, TRACEBACK, UNCLEAR, Loss, judged
from fuzz.targets import Target
from jam.documents import Document, Sample, parse_record
from jam.generation import GenerationSettings

CASES = {"documents": 6, "recipes": 6, "checkpoints": 4, "runs": 2, "requests": 6}


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    return targets(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("name", CASES)
def test_each_case_is_done_or_answered(known: dict[str, Target], tmp_path: Path, name: str) -> None:
    for number in range(CASES[name]):
        what, outcome = try_case(known[name], 0, number, tmp_path / str(number))
        assert not outcome.failed, f"python -m fuzz --case {name}:{number} ({what})\n{outcome.kind}: {outcome.text}"


def forever() -> None:
    while True:
        pass


def raise_(error: BaseException) -> Callable[[], None]:
    def call() -> None:
        raise error

    return call


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda: None, OK),
        (raise_(ValueError("a.json is damaged; get it anew")), CLEAR),
        (raise_(ValueError("something is damaged")), UNCLEAR),  # no name
        (raise_(ValueError("a.json is damaged\nline 2")), UNCLEAR),
        (raise_(ValueError("a.json: 'NoneType' object is not subscriptable")), UNCLEAR),
        (raise_(ValueError("a.json: <object at 0x7f00aa11bb22>")), UNCLEAR),
        (raise_(KeyError("a.json")), TRACEBACK),
        (raise_(OSError("a.json")), TRACEBACK),
        (raise_(MemoryError()), TRACEBACK),
        (raise_(SystemExit(2)), TRACEBACK),
        (raise_(Loss("a.json: 3 of 4")), LOSS),
        (forever, HANG),
    ],
)
def test_what_counts_as_a_failure(monkeypatch: pytest.MonkeyPatch, call: Callable[[], object], kind: str) -> None:
    monkeypatch.setattr("fuzz.outcomes.LIMIT", 0.2)
    assert judged(call, ("a.json",)).kind == kind


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
PARTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image", "gap", "image_url"]) | VALUES},
    optional={key: VALUES for key in ("text", "image", "codes", "grid", "modality", "image_url", "source")},
)
RECORDS = st.fixed_dictionaries(
    {},
    optional={
        "content": st.lists(PARTS, max_size=3) | VALUES,
        "messages": st.lists(st.fixed_dictionaries({"role": VALUES, "content": VALUES}), max_size=3) | VALUES,
        "image": VALUES,
        "images": VALUES,
        "file_name": VALUES,
        "x": VALUES,
    },
)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(RECORDS | VALUES)
def test_any_record_is_a_document_or_none(record: object) -> None:
    try:
        assert isinstance(parse_record(record, Sample(Path(), "it: ")), Document)
    except ValueError as error:
        assert str(error).startswith("it: ")


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.dictionaries(st.sampled_from(list(GenerationSettings.__dataclass_fields__)), VALUES, max_size=3))
def test_any_settings_are_some_or_none(values: dict[str, object]) -> None:
    try:
        GenerationSettings(**values)  # type: ignore[arg-type]
    except ValueError as error:
        assert any(name in str(error) for name in values)
