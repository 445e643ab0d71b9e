"""What came: the gaps in it, the messages put together again, and what is told of it in a SACK (RFC 9260 section 6).

Messages are handed on in the order of their TSNs. That is the order in which they were sent, so it serves
ordered and unordered ones alike; a lost packet holds up all streams, not only its own. In return the stream
sequence number need not be kept, and memory is bounded by the one window.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

from transfer.sctp.packet import BEGIN, END, pack_sack

DELAY = 0.02
"""Seconds that the acknowledgement of a lone packet may wait for a second one."""
SPACING, MANY = 0.001, 32
"""Seconds between two acknowledgements, and packets that are not kept waiting for that: each wakes the sender."""
OVERHEAD = 256
"""Bytes that a message, or a packet out of order, takes besides its payload: else tiny ones would fill the memory unseen."""
FURTHEST = 0xFFFF
"""TSNs above the cumulative one that a gap block can state."""
SLACK = 1 << 16
"""Bytes beyond the window that are still taken: who sends into a closing one has not heard of it yet."""


class Violation(Exception):
    """The peer does what no SCTP would: the association ends."""


class Message(NamedTuple):
    """protocol: the payload protocol, see `transfer.sctp.dcep`."""

    stream: int
    protocol: int
    data: bytes


class Receiver:
    """The receiving side of an association.

    Args:
        first: the peer's initial TSN, counted on.
        window: bytes that may wait here, in messages that nobody has taken yet and in pieces of messages.
        largest: bytes of the longest message that is put together.
    """

    def __init__(self, first: int, window: int, largest: int) -> None:
        self.cumulative = first - 1
        self.arrived: list[Message] = []
        self._window, self._largest = window, largest
        self._held = 0
        self._stated = window
        self._gaps: list[list[int]] = []
        self._early: dict[int, tuple[int, int, int, bytes]] = {}
        self._pieces: list[bytes] = []
        self._length = 0
        self._duplicates: list[int] = []
        self._unsaid = 0
        self._odd = self._at_once = False
        self._since = 0.0
        self._said = float("-inf")

    def data(self, tsn: int, flags: int, stream: int, protocol: int, payload: bytes) -> None:
        """Take one DATA chunk. tsn: counted on. Raises Violation."""
        self._unsaid += 1
        if tsn == self.cumulative + 1:
            if self._held + len(payload) > self._window + SLACK:
                self._at_once = True
                return
            self.cumulative = tsn
            self._held += len(payload)
            self._in_order(flags, stream, protocol, payload)
            if self._gaps:
                self._close_gap()
        elif tsn <= self.cumulative or tsn in self._early:
            self._duplicates.append(tsn)
            self._odd = True
        else:
            self._odd = True
            size = len(payload) + OVERHEAD
            if tsn - self.cumulative <= FURTHEST and self._held + size <= self._window:
                self._held += size
                self._early[tsn] = flags, stream, protocol, payload
                self._note(tsn)

    def taken(self, message: Message) -> None:
        """The user has taken a message: its room is free again."""
        self._held -= len(message.data) + OVERHEAD
        if self._free - self._stated >= self._window // 4:
            self._at_once = True

    def hurry(self) -> None:
        """What came is to be acknowledged without delay: the peer asked for it."""
        self._at_once = True

    def due(self, now: float) -> float | None:
        """When the next SACK is to be said; None: nothing is to be said."""
        if self._at_once or self._unsaid >= MANY:
            return now
        if self._odd or self._unsaid > 1:
            return max(now, self._said + SPACING)
        if not self._unsaid:
            return None
        self._since = self._since or now
        return self._since + DELAY

    def sack(self, room: int, now: float) -> bytes:
        """The SACK chunk, which is said now. room: bytes that it may have."""
        self._unsaid, self._odd, self._at_once, self._since, self._said = 0, False, False, 0.0, now
        duplicates, self._duplicates = self._duplicates, []
        self._stated = self._free
        gaps = [(first, last) for first, last in self._gaps]
        return pack_sack(self.cumulative, self._stated, gaps, duplicates, room)

    @property
    def _free(self) -> int:
        return max(0, self._window - self._held)

    def _in_order(self, flags: int, stream: int, protocol: int, payload: bytes) -> None:
        begins, ends = flags & BEGIN, flags & END
        if bool(begins) == bool(self._pieces):
            raise Violation("a message begins within another, or in its middle")
        if not payload:
            raise Violation("a message has an empty piece")
        if begins and ends:
            self._held += OVERHEAD
            self.arrived.append(Message(stream, protocol, payload))
            return
        self._pieces.append(payload)
        self._length += len(payload)
        if self._length > self._largest:
            raise Violation("a message is longer than was agreed")
        if ends:
            self._held += OVERHEAD
            self.arrived.append(Message(stream, protocol, b"".join(self._pieces)))
            self._pieces.clear()
            self._length = 0

    def _close_gap(self) -> None:
        first, last = self._gaps[0]
        if first != self.cumulative + 1:
            return
        del self._gaps[0]
        for tsn in range(first, last + 1):
            flags, stream, protocol, payload = self._early.pop(tsn)
            self._held -= OVERHEAD
            self.cumulative = tsn
            self._in_order(flags, stream, protocol, payload)

    def _note(self, tsn: int) -> None:
        gaps = self._gaps
        if gaps and tsn == gaps[-1][1] + 1:
            gaps[-1][1] = tsn
            return
        at = bisect_left(gaps, tsn, key=lambda gap: gap[0])
        below = at > 0 and gaps[at - 1][1] + 1 == tsn
        above = at < len(gaps) and gaps[at][0] == tsn + 1
        if below and above:
            gaps[at - 1][1] = gaps[at][1]
            del gaps[at]
        elif below:
            gaps[at - 1][1] = tsn
        elif above:
            gaps[at][0] = tsn
        else:
            gaps.insert(at, [tsn, tsn])
