"""What is to be sent, what is on its way, and what of that arrived (RFC 9260 section 6; the scoreboard of RFC 6675).

Messages are cut into chunks at the moment of sending, so that each packet is as large as the path takes by then.
A chunk that was acknowledged out of order is forgotten: a peer that takes such an acknowledgement back, as
RFC 9260 lets it under need of memory, is not served. No peer that we know does.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque

from transfer.sctp.packet import BEGIN, DATA_HEADER, END, IMMEDIATE, UNORDERED, WORD, Header, Sack, unwrap
from transfer.sctp.timing import Reordering, RoundTrip

CHUNK_HEADER = DATA_HEADER.size
LEAST_PIECE = 64
"""Bytes of payload: for less, the rest of a packet is not worth a chunk of its own."""
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


class Sent:
    """A chunk on its way. size: bytes of its payload. at: when it was last sent; times: how often.

    delivered, delivered_at, first_at, limited: where the whole stood then, for the rate (see `Sample`).
    """

    __slots__ = (
        "at",
        "chunk",
        "delivered",
        "delivered_at",
        "first_at",
        "limited",
        "lost",
        "size",
        "times",
        "tsn",
    )

    def __init__(
        self,
        tsn: int,
        chunk: bytes,
        size: int,
        at: float,
        delivered: int,
        delivered_at: float,
        first_at: float,
        limited: bool,
    ) -> None:
        self.tsn, self.chunk, self.size, self.at, self.times = tsn, chunk, size, at, 1
        self.delivered, self.delivered_at, self.first_at = delivered, delivered_at, first_at
        self.limited, self.lost = limited, False


class Sample:
    """What one SACK told. acked, lost: bytes. trip: seconds, of a chunk that was sent once; 0: none.

    rate: bytes per second at which data arrived while the newest chunk acknowledged was on its way; 0: unknown.
    limited: there was less to send than was allowed then, so the rate says nothing of the path.
    before: what had been delivered when that chunk was sent; delivered: by now. flight: bytes, before the SACK.
    Source: draft-ietf-ccwg-bbr, section on delivery rate samples.
    """

    __slots__ = ("acked", "before", "delivered", "flight", "limited", "lost", "rate", "trip")

    def __init__(self, flight: int) -> None:
        self.acked = self.lost = self.before = self.delivered = 0
        self.flight = flight
        self.trip = self.rate = 0.0
        self.limited = False


class Sender:
    """The sending side of an association. first: our initial TSN, counted on. window: the peer's, in bytes."""

    def __init__(self, first: int, window: int) -> None:
        self.trip = RoundTrip()
        self.queued = 0
        self.flight = 0
        self.delivered = 0
        self.sent_again = 0
        self.window = window
        self._reordering = Reordering()
        self._queue: deque[tuple[int, int, bool, bytes]] = deque()
        self._position = 0
        self._numbers: dict[int, int] = {}
        self._next = first
        self._cumulative = self._highest = first - 1
        self._flying: dict[int, Sent] = {}
        self._holes: list[Sent] = []
        self._lost: deque[Sent] = deque()
        self._newest = (0.0, 0)
        self._delivered_at = self._first_at = 0.0
        self._limited_until = 0
        self._overdue: float | None = None

    @property
    def outstanding(self) -> bool:
        return bool(self._flying)

    @property
    def waiting(self) -> bool:
        """There is something that could be sent."""
        return bool(self._lost or self._queue)

    @property
    def repairing(self) -> bool:
        """Something that was lost waits to be sent again."""
        return bool(self._lost)

    @property
    def last(self) -> int:
        """The TSN that was sent last."""
        return self._next - 1

    @property
    def overdue(self) -> float | None:
        """When a chunk that was overtaken counts as lost; None: none was."""
        return self._overdue

    def put(self, stream: int, protocol: int, data: bytes, *, ordered: bool = True) -> None:
        """Queue a message. Raises ValueError for an empty one: SCTP has none."""
        if not data:
            raise ValueError("SCTP carries no empty message")
        self._queue.append((stream, protocol, ordered, data))
        self.queued += len(data)

    def restart_stream(self, stream: int) -> None:
        """The stream was reset: its messages count from 0 again."""
        self._numbers.pop(stream, None)

    def packets(self, header: Header, room: int, budget: int, now: float) -> list[bytes]:
        """Packets to send now; called while something waits.

        room: bytes of chunks in a packet. budget: bytes of payload that may be sent, of lost chunks and new ones;
        the last packet may exceed it.
        """
        if not self._flying:
            self._first_at = self._delivered_at = now
        made: list[bytes] = []
        spent = self._again(header, room, budget, now, made) if self._lost else 0
        if self._queue:
            spent += self._fresh(header, room, min(budget - spent, self.window - self.flight), now, made)
        if not self._queue and spent < budget:
            self._limited_until = self.delivered + self.flight
        return made

    def _again(self, header: Header, room: int, budget: int, now: float, made: list[bytes]) -> int:
        spent = left = 0
        bundle: list[bytes] = []
        while self._lost and spent < budget:
            sent = self._lost.popleft()
            if not sent.lost:  # it came after all
                continue
            if bundle and len(sent.chunk) > left:
                made.append(header.packet(*bundle))
                bundle = []
            left = (left if bundle else room) - len(sent.chunk)
            bundle.append(sent.chunk)
            self._stamp(sent, now)
            sent.lost = False
            self.flight += sent.size
            spent += sent.size
            self.sent_again += sent.size
        if bundle:
            made.append(header.packet(*bundle))
        return spent

    def _fresh(self, header: Header, room: int, budget: int, now: float, made: list[bytes]) -> int:
        """The hot path. Packets are filled to the brim, so that all but the last are of one size: a batch for the system."""
        queue, flying, packet, pack = self._queue, self._flying, header.packet, DATA_HEADER.pack
        whole = (room & ~3) - CHUNK_HEADER
        standing = self.delivered, self._delivered_at, self._first_at, self.delivered < self._limited_until
        tsn, spent, position, space = self._next, 0, self._position, whole
        bundle: list[bytes] = []
        if not flying and not self.window:
            budget = 1  # a closed window is asked for with what it may refuse (RFC 9260 section 6.1, rule A)
        while queue and spent < budget:
            stream, protocol, ordered, data = queue[0]
            number, flags = (self._numbers.get(stream, 0), 0) if ordered else (0, UNORDERED)
            if not position:
                flags |= BEGIN
            size = len(data) - position
            if size > space:
                size = space
                body, last = data[position : position + size], False
            else:
                body, last = data[position:] + _PADDING[size & 3], True
                flags |= END | IMMEDIATE if len(queue) == 1 else END
            chunk = pack(0, flags, CHUNK_HEADER + size, tsn & WORD, stream, number, protocol) + body
            flying[tsn] = Sent(tsn, chunk, size, now, *standing)
            tsn += 1
            spent += size
            bundle.append(chunk)
            space -= len(chunk)
            if space < LEAST_PIECE:
                made.append(packet(*bundle))
                bundle, space = [], whole
            if last:
                queue.popleft()
                position = 0
                if ordered:
                    self._numbers[stream] = number + 1 & 0xFFFF
            else:
                position += size
        if bundle:
            made.append(packet(*bundle))
        self._next, self._position = tsn, position
        if spent:
            self._first_at = now
        self.flight += spent
        self.queued -= spent
        return spent

    def _stamp(self, sent: Sent, now: float) -> None:
        sent.at, sent.times = now, sent.times + 1
        sent.delivered, sent.delivered_at, sent.first_at = self.delivered, self._delivered_at, self._first_at
        sent.limited = self.delivered < self._limited_until
        self._first_at = now

    def sacked(self, sack: Sack, now: float) -> Sample | None:
        """Take a SACK: what arrived, and what must be lost by now. None for one that is old, or of what was never sent."""
        cumulative = unwrap(sack.cumulative, self._cumulative)
        highest = cumulative + (sack.gaps[-1][1] if sack.gaps else 0)
        if cumulative < self._cumulative or highest >= self._next:
            return None
        sample = Sample(self.flight)
        newest: Sent | None = None
        arrived: list[Sent] = []
        for tsn in range(self._cumulative + 1, cumulative + 1):
            sent = self._flying.pop(tsn, None)
            if sent is not None:
                arrived.append(sent)
        if cumulative > self._cumulative:
            self._cumulative = cumulative
            if self._holes:
                self._holes = [hole for hole in self._holes if hole.tsn > cumulative]
        if sack.gaps:
            self._gaps([(cumulative + first, cumulative + last) for first, last in sack.gaps], arrived)
        self._highest = max(self._highest, cumulative)
        trip = 0.0
        for sent in arrived:
            sample.acked += sent.size
            if not sent.lost:
                self.flight -= sent.size
            sent.lost = False
            if (sent.at, sent.tsn) > self._newest:
                self._newest = sent.at, sent.tsn
            if newest is None or sent.delivered > newest.delivered or sent.at > newest.at:
                newest = sent
            if sent.times == 1:
                trip = now - sent.at
        if trip:
            self.trip.sample(trip, now)
            sample.trip = trip
        for _ in range(sack.duplicates):
            self._reordering.too_short()
        self.window = sack.window
        self.delivered += sample.acked
        sample.delivered = self.delivered
        if newest is not None:
            self._rate(sample, newest, now)
        sample.lost = self.find_lost(now)
        return sample

    def _gaps(self, gaps: list[tuple[int, int]], arrived: list[Sent]) -> None:
        if self._holes:
            starts = [first for first, _ in gaps]
            open_: list[Sent] = []
            for hole in self._holes:
                at = bisect_right(starts, hole.tsn) - 1
                if at >= 0 and gaps[at][1] >= hole.tsn:
                    arrived.append(self._flying.pop(hole.tsn))
                else:
                    open_.append(hole)
            self._holes = open_
        above = max(self._highest, self._cumulative)
        for first, last in gaps:
            if last <= above:
                continue
            first = max(first, above + 1)
            self._holes += [self._flying[tsn] for tsn in range(above + 1, first) if tsn in self._flying]
            arrived += [self._flying.pop(tsn) for tsn in range(first, last + 1) if tsn in self._flying]
            above = last
        self._highest = max(self._highest, above)

    def _rate(self, sample: Sample, newest: Sent, now: float) -> None:
        took = max(newest.at - newest.first_at, now - newest.delivered_at)
        self._first_at = newest.at
        self._delivered_at = now
        sample.before, sample.limited = newest.delivered, newest.limited
        if took >= self.trip.shortest:  # else it was the answer to what was sent before: it had not been lost
            sample.rate = (self.delivered - newest.delivered) / took

    def find_lost(self, now: float) -> int:
        """Bytes of chunks that are found to be lost now; call it when `overdue` has come, too."""
        self._overdue = None
        if not self._holes:
            return 0
        wait, lost = self.trip.latest + self._reordering.window(self.trip), 0
        for hole in self._holes:
            if hole.lost or (hole.at, hole.tsn) > self._newest:
                continue
            due = hole.at + wait
            if now >= due:
                lost += self._give_up(hole)
            elif self._overdue is None or due < self._overdue:
                self._overdue = due
        return lost

    def sample_of_loss(self, lost: int) -> Sample:
        """Of a loss that no SACK told, but the time."""
        sample = Sample(self.flight + lost)
        sample.lost, sample.delivered, sample.before = lost, self.delivered, self.delivered
        return sample

    def _give_up(self, sent: Sent) -> int:
        sent.lost = True
        self._lost.append(sent)
        self.flight -= sent.size
        return sent.size

    def probe(self, now: float) -> None:
        """No acknowledgement came for long: have the last chunk sent once more, to learn what became of it (RFC 8985)."""
        last = next(reversed(self._flying.values()))
        if not last.lost:
            self._give_up(last)

    def all_lost(self) -> int:
        """The timeout has come: whatever is on its way counts as lost. Bytes of it."""
        self._overdue = None
        lost = 0
        self._lost.clear()
        for sent in self._flying.values():
            lost += 0 if sent.lost else sent.size
            sent.lost = True
            self._lost.append(sent)
        self.flight = 0
        return lost
