"""Slots that begin alike: what they have in common is read once and copied.

A slot that is to be read follows the one that holds the longest beginning of it, or will: it waits until that one has
read what they share. A copy is made only of ids that are there, so that a leader may leave, or read something else.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from jam.generation.model_runner import ModelRunner
from jam.generation.slots import Slot

LEAST = 4  # ids for which a copy is worth its while


def share(slots: Sequence[Slot], running: Sequence[Slot], runner: ModelRunner) -> list[Slot]:
    """Copy into slots what other slots have read already; returns the slots that must read now, while the others wait.

    Args:
        slots: with ids to be read, but for the last one of each, which is read when the next is written.
        running: all slots, these among them.
    """
    reading, leaders = set(slots), Leaders(runner)
    for slot in running if any(not one.is_planned or one.leader for one in slots) else ():
        if slot.is_planned and slot.leader is None:
            leaders.add(slot, slot in reading)
    for slot in slots:
        if slot.is_planned and slot.leader is None:
            continue
        if slot.leader is not None and not _copy(slot, runner) and slot.leader not in reading:
            slot.is_planned = False
        if not slot.is_planned:
            slot.leader, slot.shared = leaders.best(slot)
            slot.is_planned = True
            _copy(slot, runner)
        if slot.leader is None:
            leaders.add(slot, True)
    return [slot for slot in slots if slot.leader is None and len(slot.pending) > 1]


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids at the beginning are equal."""
    least, most = 0, min(len(one), len(other))
    if one[:most] == other[:most]:
        return most
    while most - least > 1:
        middle = (least + most) // 2
        if one[least:middle] == other[least:middle]:
            least = middle
        else:
            most = middle
    return least


class Leaders:
    """Slots that wait for nobody, in the order of their ids: the one that begins most alike is a neighbour."""

    def __init__(self, runner: ModelRunner) -> None:
        self.runner = runner
        self._ids: list[list[int]] = []
        self._slots: list[Slot] = []

    def add(self, slot: Slot, reads: bool) -> None:
        """`reads`: what it is to read counts, too."""
        ids = self.runner.ids[slot.index] + (slot.pending[:-1] if reads else [])
        place = bisect_right(self._ids, ids)
        self._ids.insert(place, ids)
        self._slots.insert(place, slot)

    def best(self, slot: Slot) -> tuple[Slot | None, int]:
        """The one with which a slot shares most, and how many ids; None where that is not worth a copy."""
        held = self.runner.ids[slot.index]
        wanted = held + slot.pending[:-1]
        place = bisect_right(self._ids, wanted)
        near = [(common_length(wanted, self._ids[at]), at) for at in (place - 1, place) if 0 <= at < len(self._ids)]
        shared, at = max(near, key=lambda one: one[0], default=(0, 0))
        return (self._slots[at], shared) if shared >= len(held) + LEAST else (None, 0)


def _copy(slot: Slot, runner: ModelRunner) -> bool:
    """Whether the leader held what is shared, and the slot has it now."""
    if slot.leader is None:
        return False
    held, shared = runner.ids[slot.index], slot.shared
    if runner.ids[slot.leader.index][:shared] != (held + slot.pending)[:shared]:
        return False
    slot.pending = slot.pending[shared - len(held) :]
    runner.copy(slot.leader.index, slot.index, shared)
    slot.leader = None
    return True
