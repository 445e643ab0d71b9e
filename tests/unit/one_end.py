"""One end of an SCTP association for tests that speak to it chunk by chunk, and what it says to that."""

from __future__ import annotations

import random
import struct

from transfer.sctp import packet as wire
from transfer.sctp.association import Association
from transfer.sctp.packet import BEGIN, DATA_HEADER, END, WORD, Header, Type
from transfer.sctp.sending import Sample
from transfer.sctp.timing import RoundTrip

PEER = wire.Init(tag=77, window=1 << 20, outbound=9, inbound=9, tsn=500)


def fresh(**options: int) -> Association:
    return Association(random.Random(1).randbytes, **options)  # type: ignore[arg-type]


def established(**options: int) -> Association:
    """One that agreed with PEER at 0 s, and searches for no larger packets."""
    made = fresh(**options)
    made.agree(PEER, 0.0, largest_packet=1188)
    return made


def hear(end: Association, *chunks: bytes, now: float = 0.0) -> None:
    end.receive(Header(5000, 5000, end.init.tag).packet(*chunks), now)


def greet(end: Association, init: wire.Init = PEER) -> None:
    end.receive(Header(5000, 5000, 0).packet(wire.chunk(Type.INIT, wire.pack_init(init))), 0.0)


def said(end: Association, now: float = 0.0) -> list[tuple[int, bytes]]:
    """(type, value) of each chunk that it sends now."""
    return [(kind, value) for packet in end.poll(now) for kind, _, value in wire.chunks(packet)]


def kinds(end: Association, now: float = 0.0) -> list[int]:
    return [kind for kind, _ in said(end, now)]


def data(tsn: int, payload: bytes = b"x", flags: int = BEGIN | END) -> bytes:
    return wire.chunk(Type.DATA, DATA_HEADER.pack(0, 0, 0, tsn & WORD, 0, 0, 53)[4:] + payload, flags)


def sack(end: Association, arrived: int, window: int = 1 << 20) -> bytes:
    """That the first so many chunks came."""
    return wire.chunk(Type.SACK, struct.pack("!IIHH", end.init.tsn + arrived - 1 & WORD, window, 0, 0))


class Fixed:
    """A controller that changes nothing, and notes what it was told was lost."""

    def __init__(self, piece: int, window: int = 1 << 20, rate: float = 0.0) -> None:
        self.piece, self.window, self.rate = piece, window, rate
        self.lost: list[int] = []
        self.timeouts = 0

    def sacked(self, sample: Sample, trip: RoundTrip, flight: int, now: float) -> None:
        self.lost += [sample.lost] if sample.lost else []

    def timed_out(self, flight: int, now: float) -> None:
        self.timeouts += 1


def controlled(largest: int = 1188, **how: float) -> tuple[Association, Fixed]:
    made: list[Fixed] = []

    def make(piece: int) -> Fixed:
        made.append(Fixed(piece, **how))  # type: ignore[arg-type]
        return made[0]

    end = Association(random.Random(1).randbytes, largest_packet=largest, controller=make)
    end.agree(PEER, 0.0)
    return end, made[0]
