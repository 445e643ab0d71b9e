"""What TCP tells of the way to the store, and which congestion control a connection sends under because of it.

CUBIC takes every loss for a full queue and halves its rate; on a link that loses one packet in a hundred for other
reasons it crawls. BBR does not, but fills short queues on clean links and loses a tenth of what it sends there. So a
connection begins as the system has it and is looked at as it sends. A full queue drops many packets at once and then
none for long; a link that loses some on the way does so all the time, a few of them, at the shortest round trip.
Where a queue stands, the link is full: one more connection would only make it longer, and overflow as it begins.
Connections that share a link under CUBIC share it unevenly for many seconds. That costs nothing while there is work
for all; the last few, which nobody competes with any more, would crawl on at the share they had, so they get BBR.
When one of those has ended, the others begin BBR anew: what it knows of the path it raises by a quarter every eight
round trips, and a part that was left alone at the end took up to three seconds more on a link of 80 ms.
So do all while a receiver follows: what it waits for ends with the slowest, and BBR shares evenly. Alone it is a
fortieth slower on a clean link than CUBIC; against a fetch over the same link its shorter queue makes both faster.
Source: tcp(7), TCP_INFO and TCP_CONGESTION; Linux, include/uapi/linux/tcp.h, struct tcp_info.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import weakref

_INFO = struct.Struct("=68xI20xI4xI44xI")
"""Round trip (microseconds) at offset 68, that of who receives at 92, segments sent again at 100, the shortest at 148."""
_LENGTH = 152
QUEUE = 1.25, 2000
"""A round trip over so many times the shortest, and so many microseconds, has a queue in it."""
FEW = 8
"""Segments sent again between two looks: more is a queue that overflowed."""
LOOKS, SHARE = 8, 0.35
"""Looks before anything is decided, and what share of them must have seen a few losses without a queue."""


class NetworkPath:
    """The way to one store, as all connections together see it. shortest: round trip in microseconds, 0: none seen.

    Connections that were made while a queue stood have never seen the shortest themselves.
    """

    def __init__(self) -> None:
        self.shortest = 0
        self._hurrying = False
        self._watches: weakref.WeakSet[Watch] = weakref.WeakSet()
        self._looks = self._queues = 0
        self._full = False

    def saw(self, trip: int, shortest: int) -> bool:
        """Whether that round trip had a queue in it."""
        self.shortest = min(self.shortest or shortest, shortest)
        queue = trip > QUEUE[0] * self.shortest + QUEUE[1]
        self._looks += 1
        self._queues += queue
        return queue

    def full(self) -> bool:
        """Whether a queue stood at most looks since this was last asked; while nobody looks, it is as it was."""
        if self._looks:
            self._full = 2 * self._queues > self._looks
            self._looks = self._queues = 0
        return self._full

    def join(self, watch: Watch) -> None:
        self._watches.add(watch)

    def hurry(self, *, anew: bool = False) -> None:
        """Only a few connections are still at work, or somebody waits for the slowest: BBR for all, from now on.

        anew: one of them has ended, so the others look for their rate from the start: BBR grows by a quarter every eight
        round trips only, once it thinks that it knows the path.
        """
        self._hurrying = True
        for watch in list(self._watches):
            if self.hurrying:
                watch.hurry(anew=anew)

    @property
    def hurrying(self) -> bool:
        """Whether connections should be under BBR. It changes nothing where the way is short."""
        return self._hurrying and self.shortest > QUEUE[1]


class Watch:
    """Looks after one connected TCP socket: call `look` between two pieces that are sent or have come."""

    def __init__(self, connected: socket.socket, path: NetworkPath) -> None:
        self._socket, self._path = connected, path
        self._again = self._looks = self._lossy = 0
        self._tells = sys.platform == "linux"
        self._decided = not self._tells
        path.join(self)

    def look(self) -> None:
        if not self._tells:
            return
        try:
            info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LENGTH)
        except OSError:
            info = b""
        if len(info) < _LENGTH:  # an old kernel
            self._tells = False
            return
        trip, receiving, again, shortest = _INFO.unpack(info)
        queue = self._path.saw(max(trip, receiving), shortest)
        if not self._decided and (self._path.hurrying or self.lost_on_the_way(again, queue=queue)):
            self.hurry()

    def hurry(self, *, anew: bool = False) -> None:
        """Send under BBR from now on, if there is one and net.ipv4.tcp_allowed_congestion_control lets us."""
        if self._decided and not (anew and self._tells):
            return
        self._decided = True
        with contextlib.suppress(OSError):
            if anew:  # what it is under already would change nothing
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")

    def lost_on_the_way(self, again: int, *, queue: bool) -> bool:
        """Whether enough is known to say so. again: segments sent again so far. queue: whether one stands just now."""
        fresh, self._again = again - self._again, again
        self._looks += 1
        self._lossy += 0 < fresh <= FEW and not queue
        return self._looks >= LOOKS and self._lossy >= SHARE * self._looks
