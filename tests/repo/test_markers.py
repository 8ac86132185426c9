"""What the markers of tests do, and the limit of time that every test has."""

from __future__ import annotations

import signal

import pytest
import torch

from fuzz.outcomes import within


@pytest.mark.gpu
def test_what_needs_a_gpu_runs_where_there_is_one() -> None:
    assert torch.cuda.is_available()


@pytest.mark.slow
def test_slow_tests_have_more_time(request: pytest.FixtureRequest) -> None:
    marker = request.node.get_closest_marker("timeout")
    assert marker is not None and marker.args == (1800,)


def test_a_limit_within_a_test_leaves_the_tests_own() -> None:
    left, _ = signal.getitimer(signal.ITIMER_REAL)
    with within(20):
        pass
    assert 0 < left <= 300 and 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= left
