"""Streams that begin alike: what they have in common is read once and copied.

A stream that is to be read follows the one that holds the longest beginning of it, or will: it waits until that one has
read what they share. A copy is made only of ids that are there, so that a leader may leave, or read something else.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from jam.generation.decoder import Decoder
from jam.generation.row import Stream

LEAST = 4  # ids for which a copy is worth its while


def share(streams: Sequence[Stream], running: Sequence[Stream], decoder: Decoder) -> list[Stream]:
    """Copy what other streams have read of these; those that are to read now themselves, while the others wait.

    Args:
        streams: with ids to be read, but for the last one of each, which is read when the next is written.
        running: all streams, these among them.
    """
    reading, leaders = set(streams), Leaders(decoder)
    for stream in running if any(not one.is_planned or one.leader for one in streams) else ():
        if stream.is_planned and stream.leader is None:
            leaders.add(stream, stream in reading)
    for stream in streams:
        if stream.is_planned and stream.leader is None:
            continue
        if stream.leader is not None and not _copy(stream, decoder) and stream.leader not in reading:
            stream.is_planned = False
        if not stream.is_planned:
            stream.leader, stream.shared = leaders.best(stream)
            stream.is_planned = True
            _copy(stream, decoder)
        if stream.leader is None:
            leaders.add(stream, True)
    return [stream for stream in streams if stream.leader is None and len(stream.pending) > 1]


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
    """Streams that wait for nobody, in the order of their ids: the one that begins most alike is a neighbour."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self._ids: list[list[int]] = []
        self._streams: list[Stream] = []

    def add(self, stream: Stream, reads: bool) -> None:
        """`reads`: what it is to read counts, too."""
        ids = self.decoder.ids[stream.slot] + (stream.pending[:-1] if reads else [])
        place = bisect_right(self._ids, ids)
        self._ids.insert(place, ids)
        self._streams.insert(place, stream)

    def best(self, stream: Stream) -> tuple[Stream | None, int]:
        """The one with which a stream shares most, and how many ids; None where that is not worth a copy."""
        held = self.decoder.ids[stream.slot]
        wanted = held + stream.pending[:-1]
        place = bisect_right(self._ids, wanted)
        near = [(common_length(wanted, self._ids[at]), at) for at in (place - 1, place) if 0 <= at < len(self._ids)]
        shared, at = max(near, key=lambda one: one[0], default=(0, 0))
        return (self._streams[at], shared) if shared >= len(held) + LEAST else (None, 0)


def _copy(stream: Stream, decoder: Decoder) -> bool:
    """Whether the leader held what is shared, and the stream has it now."""
    if stream.leader is None:
        return False
    held, shared = decoder.ids[stream.slot], stream.shared
    if decoder.ids[stream.leader.slot][:shared] != (held + stream.pending)[:shared]:
        return False
    stream.pending = stream.pending[shared - len(held) :]
    decoder.copy(stream.leader.slot, stream.slot, shared)
    stream.leader = None
    return True
