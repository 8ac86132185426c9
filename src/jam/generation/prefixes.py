"""Streams that begin alike: what they have in common is read once and copied.

A stream that is to be read follows the one that holds the longest beginning of it, or will: it waits until that one has
read what they share. A copy is made only of ids that are there, so that a leader may leave, or read something else.
"""

from __future__ import annotations

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
    for stream in streams:
        if stream.leader is not None and not _copy(stream, decoder) and stream.leader not in streams:
            stream.is_planned = False
        if not stream.is_planned:
            _choose_leader(stream, streams, running, decoder)
            _copy(stream, decoder)
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


def _choose_leader(stream: Stream, streams: Sequence[Stream], running: Sequence[Stream], decoder: Decoder) -> None:
    """One that waits for nobody, so that none waits for itself."""
    held = decoder.ids[stream.slot]
    wanted, least = held + stream.pending[:-1], len(held) + LEAST
    stream.leader, stream.shared, stream.is_planned = None, 0, True
    for other in running:
        if other is stream or not other.is_planned or other.leader is not None:
            continue
        there = decoder.ids[other.slot] + (other.pending[:-1] if other in streams else [])
        if (shared := common_length(wanted, there)) >= least:
            stream.leader, stream.shared, least = other, shared, shared + 1


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
