"""SCTP packets and their chunks as bytes (RFC 9260 section 3; RFC 6525 for the reset of streams).

A chunk here is SCTP's, a typed piece of a packet, not a piece of a file. TSNs are 32 bits on the wire
and count on without end elsewhere in this package: `unwrap` takes one to the other.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from google_crc32c import extend, value

HEADER = 12
"""Bytes of the common header: ports, verification tag, checksum."""
DATA_HEADER = struct.Struct("!BBHIHHI")
"""type, flags, length, TSN, stream, stream sequence number, payload protocol."""
IMMEDIATE, UNORDERED, BEGIN, END = 8, 4, 2, 1
"""Flags of a DATA chunk. IMMEDIATE: acknowledge it without delay (RFC 7053)."""
WORD = 0xFFFFFFFF
MAX_DUPLICATES = 8

_HEAD = struct.Struct("!BBH")
_SACK = struct.Struct("!BBHIIHH")
_INIT = struct.Struct("!IIHHI")
_CHECKSUM = struct.Struct("<I")
_NO_CHECKSUM = bytes(4)
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


class Type(IntEnum):
    """Of a chunk."""

    DATA = 0
    INIT = 1
    INIT_ACK = 2
    SACK = 3
    HEARTBEAT = 4
    HEARTBEAT_ACK = 5
    ABORT = 6
    SHUTDOWN = 7
    SHUTDOWN_ACK = 8
    ERROR = 9
    COOKIE_ECHO = 10
    COOKIE_ACK = 11
    SHUTDOWN_COMPLETE = 14
    RE_CONFIG = 130
    PAD = 132


class Parameter(IntEnum):
    """Of an INIT or a RE-CONFIG chunk."""

    COOKIE = 7
    RESET_OUTGOING = 13
    RESET_RESPONSE = 16
    EXTENSIONS = 0x8008


class Malformed(ValueError):
    """A packet or a chunk that cannot be read: it is dropped, as one that was damaged on the way is."""


class Init(NamedTuple):
    """INIT and INIT-ACK. tag: what the other end writes into its packets. window: bytes. cookie: INIT-ACK's."""

    tag: int
    window: int
    outbound: int
    inbound: int
    tsn: int
    cookie: bytes = b""


class Sack(NamedTuple):
    """cumulative: the 32-bit TSN up to which all arrived. window: bytes. gaps: (first, last), relative to it.

    duplicates: how many packets came twice.
    """

    cumulative: int
    window: int
    gaps: tuple[tuple[int, int], ...]
    duplicates: int = 0


class Header:
    """The common header of one direction, and the checksum over it."""

    __slots__ = ("checksum", "prefix")

    def __init__(self, source: int, destination: int, tag: int) -> None:
        self.prefix = struct.pack("!HHI", source, destination, tag)
        self.checksum = value(self.prefix + _NO_CHECKSUM)

    def packet(self, *chunks: bytes) -> bytes:
        """chunks: each padded already."""
        body = b"".join(chunks)
        return self.prefix + _CHECKSUM.pack(extend(self.checksum, body)) + body

    def admits(self, packet: bytes) -> bool:
        """Whether it bears this header and its checksum is right."""
        return (
            packet[:8] == self.prefix
            and extend(self.checksum, packet[HEADER:]) == _CHECKSUM.unpack_from(packet, 8)[0]
        )


def chunk(kind: int, value: bytes = b"", flags: int = 0) -> bytes:
    length = _HEAD.size + len(value)
    return _HEAD.pack(kind, flags, length) + value + _PADDING[length & 3]


def chunks(packet: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(type, flags, value) of each; ends where the rest makes no sense. The caller has checked the header."""
    at, end = HEADER, len(packet)
    while at + _HEAD.size <= end:
        kind, flags, length = _HEAD.unpack_from(packet, at)
        if length < _HEAD.size or at + length > end:
            return
        yield kind, flags, packet[at + _HEAD.size : at + length]
        at += length + 3 & ~3


def pack_init(init: Init) -> bytes:
    """The value of an INIT, or with a cookie of an INIT-ACK. It offers the reset of streams, and nothing else."""
    value = _INIT.pack(init.tag, init.window, init.outbound, init.inbound, init.tsn)
    if init.cookie:
        value += parameter(Parameter.COOKIE, init.cookie)
    return value + parameter(Parameter.EXTENSIONS, bytes([Type.RE_CONFIG]))


def unpack_init(value: bytes) -> Init:
    """Raises Malformed for one that RFC 9260 has us refuse."""
    if len(value) < _INIT.size:
        raise Malformed("INIT is too short")
    tag, window, outbound, inbound, tsn = _INIT.unpack_from(value)
    if not tag or not outbound or not inbound:
        raise Malformed("INIT has a tag or a number of streams of zero")
    cookie = next((found for kind, found in parameters(value[_INIT.size :]) if kind == Parameter.COOKIE), b"")
    return Init(tag, window, outbound, inbound, tsn, cookie)


def parameter(kind: int, value: bytes) -> bytes:
    length = 4 + len(value)
    return struct.pack("!HH", kind, length) + value + _PADDING[length & 3]


def parameters(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, value) of each; ends where the rest makes no sense."""
    at = 0
    while at + 4 <= len(data):
        kind, length = struct.unpack_from("!HH", data, at)
        if length < 4 or at + length > len(data):
            return
        yield kind, data[at + 4 : at + length]
        at += length + 3 & ~3


def pack_sack(
    cumulative: int, window: int, gaps: list[tuple[int, int]], duplicates: list[int], room: int
) -> bytes:
    """A whole SACK chunk. cumulative, gaps (first, last) and duplicates: TSNs that count on.

    room: bytes that it may have. Gaps that lie too far above, or are too many, are left out: they are stated once
    the lower ones are closed.
    """
    stated = [
        edge
        for first, last in gaps[: (room - _SACK.size) // 4 - MAX_DUPLICATES]
        if last - cumulative < 1 << 16
        for edge in (first - cumulative, last - cumulative)
    ]
    count, twice = len(stated) // 2, [tsn & WORD for tsn in duplicates[:MAX_DUPLICATES]]
    length = _SACK.size + 4 * count + 4 * len(twice)
    head = _SACK.pack(Type.SACK, 0, length, cumulative & WORD, window, count, len(twice))
    return head + struct.pack(f"!{2 * count}H{len(twice)}I", *stated, *twice)


def unpack_sack(value: bytes) -> Sack:
    """Raises Malformed unless its gaps are in order and apart."""
    if len(value) < _SACK.size - _HEAD.size:
        raise Malformed("SACK is too short")
    cumulative, window, count, duplicates = struct.unpack_from("!IIHH", value)
    if len(value) < 12 + 4 * (count + duplicates):
        raise Malformed("SACK is cut off")
    edges = struct.unpack_from(f"!{2 * count}H", value, 12)
    gaps = tuple(zip(edges[::2], edges[1::2], strict=True))
    before = 1
    for first, last in gaps:
        if not before < first <= last:
            raise Malformed("SACK has gaps out of order")
        before = last + 1
    return Sack(cumulative, window, gaps, duplicates)


def unwrap(word: int, near: int) -> int:
    """The number that counts on, nearest to `near`, whose lowest 32 bits are `word`."""
    return near + ((word - near + 0x80000000) & WORD) - 0x80000000
