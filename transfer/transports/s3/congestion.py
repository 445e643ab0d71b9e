"""Which congestion control a connection sends under: the system's own, and BBR once loss without a queue shows.

CUBIC takes every loss for a full queue and halves its rate; on a link that loses one packet in a hundred for other
reasons it crawls. BBR does not, but fills short queues on clean links and loses a tenth of what it sends there. So a
connection begins as the system has it and is looked at as it sends. A full queue drops many packets at once and then
none for long; a link that loses some on the way does so all the time, a few of them, at the shortest round trip.
Source: tcp(7), TCP_INFO and TCP_CONGESTION; Linux, include/uapi/linux/tcp.h, struct tcp_info.
"""

from __future__ import annotations

import socket
import struct
import sys

_INFO = struct.Struct("=68xI28xI44xI")
"""Round trip (microseconds) at offset 68, segments sent again at 100, shortest round trip at 148."""
_LENGTH = 152
QUEUE = 1.25, 2000
"""A round trip over so many times the shortest, and so many microseconds, has a queue in it."""
FEW = 8
"""Segments sent again between two looks: more is a queue that overflowed."""
LOOKS, SHARE = 8, 0.35
"""Looks before anything is decided, and what share of them must have seen a few losses without a queue."""


class Watch:
    """Looks after one connected TCP socket: call `look` between two pieces that are sent."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._again = self._looks = self._lossy = 0
        self._decided = sys.platform != "linux"

    def look(self) -> None:
        if self._decided:
            return
        try:
            info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LENGTH)
        except OSError:
            info = b""
        if len(info) < _LENGTH:  # an old kernel
            self._decided = True
            return
        if self.lost_on_the_way(*_INFO.unpack(info)):
            self._decided = True
            try:
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")
            except (
                OSError
            ):  # the kernel has none, or a user may not choose it: net.ipv4.tcp_allowed_congestion_control
                return

    def lost_on_the_way(self, trip: int, again: int, shortest: int) -> bool:
        """Whether enough is known to say so. Arguments as in struct tcp_info: microseconds, and a count so far."""
        fresh, self._again = again - self._again, again
        self._looks += 1
        self._lossy += 0 < fresh <= FEW and trip <= QUEUE[0] * shortest + QUEUE[1]
        return self._looks >= LOOKS and self._lossy >= SHARE * self._looks
