"""Who is written and who waits: slots of the cache are lent to requests in the order in which they came.

The first request that does not fit makes all later ones wait, so that none waits for ever. Sessions that rest give
their slots back when a request waits, the one that rested longest first.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence

from jam.generation.active_request import ActiveRequest
from jam.generation.request import Session
from jam.generation.slots import Slot


class Scheduler:
    """Lends `slots` slots."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.free = list(range(slots))  # a heap: the lowest first, so that the slots in use are neighbours
        self.waiting: deque[ActiveRequest] = deque()
        self.running: list[ActiveRequest] = []
        self.resting: list[Session] = []

    def submit(self, row: ActiveRequest) -> None:
        """Put a row at the end of the queue. Raises ValueError if it could never run, or its session is busy."""
        if row.limits.slots > self.slots:
            raise ValueError(
                f"a document with guided pictures needs {row.limits.slots} slots of the cache, and there is room for "
                f"{self.slots}; give the engine more memory or a shorter length, or set guidance_scale to 1"
            )
        if (session := row.request.session) is not None:
            if session.busy:
                raise ValueError("this session is answering already; wait for its end")
            session.busy = True
        self.waiting.append(row)

    def admit(self) -> list[ActiveRequest]:
        """The rows that begin now; they have their slots, a session's with what it holds."""
        begun = []
        while self.waiting and self._make_room(self.waiting[0]):
            row = self.waiting.popleft()
            session = row.request.session
            if session is not None and session.slot is not None:
                self.resting.remove(session)
                index = session.slot
            else:
                index = heapq.heappop(self.free)
            row.slot = Slot(index)
            if row.limits.slots == 2:
                row.unconditional = Slot(heapq.heappop(self.free))
            self.running.append(row)
            begun.append(row)
        return begun

    def release(self, rows: Sequence[ActiveRequest]) -> list[int]:
        """Take rows out; the slots that are free again. A session keeps its own."""
        gone = set(rows)
        if any(row.slot is None for row in rows):
            self.waiting = deque(other for other in self.waiting if other not in gone)
        if gone:
            self.running = [other for other in self.running if other not in gone]
        return [slot for row in rows for slot in self._take_back(row)]

    def _take_back(self, row: ActiveRequest) -> list[int]:
        indices = [slot.index for slot in row.slots]
        if (session := row.request.session) is not None:
            session.busy = False
            if row.slot is not None:
                session.slot = row.slot.index
                indices.remove(row.slot.index)
            if session.slot is not None and session not in self.resting:
                self.resting.append(session)
        row.slot = row.unconditional = None
        for index in indices:
            heapq.heappush(self.free, index)
        return indices

    def end(self, session: Session) -> None:
        """Take the slot of a session that rests."""
        if session in self.resting:
            self.resting.remove(session)
            assert session.slot is not None
            heapq.heappush(self.free, session.slot)
        session.slot = None

    def _make_room(self, row: ActiveRequest) -> bool:
        """Whether the row fits now; sessions give way if that helps."""
        own = row.request.session
        needed = row.limits.slots - (own is not None and own.slot is not None)
        others = [session for session in self.resting if session is not own]
        if len(self.free) + len(others) < needed:
            return False
        while len(self.free) < needed:
            self.end(others.pop(0))
        return True
