"""Slots under any sequence of requests, cancellations, steps and ends of sessions: lent once each, and free at last."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from jam.generation import Engine, Finished, GenerationSettings, Request, Session
from jam.generation.active_request import ActiveRequest
from support import generated, tiny

SLOTS = 4
VOCABULARY = tiny.codec().vocabulary
PROMPTS = [[VOCABULARY.eos_id, *range(5, 5 + count)] for count in (1, 4, 9)]


@cache
def network() -> Any:
    return tiny.network("cross", VOCABULARY, context=32).eval()


class Lending(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.engine = Engine(network(), slots=SLOTS)
        self.sessions = [Session(), Session()]
        self.rows: list[ActiveRequest] = []  # in the order in which they came
        self.finished: list[int] = []

    @rule(
        prompt=st.sampled_from(PROMPTS),
        tokens=st.integers(1, 8),
        guided=st.booleans(),
        session=st.sampled_from([None, None, 0, 1]),
    )
    def submit(self, prompt: list[int], tokens: int, guided: bool, session: int | None) -> None:
        """A guided request draws a picture, for which it needs a second slot."""
        chosen = GenerationSettings(tokens + 5 * guided, min_images=int(guided), guidance_scale=2.0 if guided else 1.0)
        request = Request(prompt, chosen, session=None if session is None else self.sessions[session])
        if request.session is not None and request.session.busy:
            with pytest.raises(ValueError, match="this session is answering"):
                self.engine.submit(request)
        else:
            self.rows.append(self.engine.submit(request))

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """Whether it waits, is being written or has ended."""
        row = data.draw(st.sampled_from(self.rows))
        self.engine.cancel(row)
        assert row.finish_reason is not None

    @rule()
    def step(self) -> None:
        self.finished += [event.id for event in self.engine.step() if isinstance(event, Finished)]

    @rule(number=st.integers(0, 1))
    def end(self, number: int) -> None:
        session = self.sessions[number]
        if session.busy:
            with pytest.raises(ValueError, match="this session is answering"):
                self.engine.end(session)
        else:
            self.engine.end(session)
            assert session.slot is None

    @invariant()
    def every_slot_is_lent_once(self) -> None:
        scheduler = self.engine.scheduler
        lent = [slot.index for row in scheduler.running for slot in (row.slot, row.unconditional) if slot is not None]
        lent += [session.slot for session in scheduler.resting if session.slot is not None]
        assert sorted([*scheduler.free, *lent]) == list(range(SLOTS))
        assert not any(self.engine.runner.lengths[slot] for slot in scheduler.free)

    @invariant()
    def nobody_overtakes(self) -> None:
        scheduler = self.engine.scheduler
        places = [self.rows.index(row) for row in [*scheduler.running, *scheduler.waiting]]
        assert places == sorted(places)
        assert {row for row in self.rows if row.finish_reason is None} == {*scheduler.running, *scheduler.waiting}

    @invariant()
    def a_session_rests_unless_its_request_is_written(self) -> None:
        """One whose request waits rests, too: it may have to give its slot to others before."""
        scheduler = self.engine.scheduler
        for session in self.sessions:
            running, waiting = (
                any(row.request.session is session for row in rows) for rows in (scheduler.running, scheduler.waiting)
            )
            assert session.busy == (running or waiting)
            resting = any(other is session for other in scheduler.resting)
            assert resting == (session.slot is not None and not running)

    def teardown(self) -> None:
        """Everybody's end is told once, and then all slots are free or a session's."""
        for _ in range(20 * len(self.rows) + 1):  # a slot that was lost must not let it wait for ever
            self.step()
        assert self.engine.is_idle and sorted(self.finished) == [row.id for row in self.rows]
        for session in self.sessions:
            self.engine.end(session)
        assert sorted(self.engine.scheduler.free) == list(range(SLOTS)) and not any(self.engine.runner.lengths)


TestLending = Lending.TestCase
TestLending.settings = settings(generated.FEW, stateful_step_count=12)
