"""SECURITY.md names the tests that hold what it promises."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROMISES = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def test_the_tests_that_are_named_are_there() -> None:
    named = set(re.findall(r"`(test_\w+\.py)`", PROMISES))
    assert len(named) > 10 and named - {path.name for path in (ROOT / "tests").rglob("test_*.py")} == set()


def test_every_promise_names_a_test() -> None:
    """Each section but those that promise nothing; where there are points, each point."""
    for section in re.split(r"\n## ", PROMISES)[1:]:
        title, _, text = section.partition("\n")
        if title in ("What is not promised", "Reporting"):
            continue
        points = re.split(r"\n(?=- )", text)[1:] or [text]
        assert [point for point in points if not re.search(r"`test_\w+\.py`", point)] == [], title
