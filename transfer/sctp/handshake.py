"""How two ends come to know each other: the four-way handshake, from either or both of them (RFC 9260 section 5.1).

It decides what is to be said; `Association` says it. A cookie that nobody can guess shows that whoever echoes it hears us.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

from transfer.sctp import packet as wire
from transfer.sctp.packet import Header, Init, Malformed, Type

STREAMS = 65535
START_EVERY, START_ATTEMPTS = 0.25, 16


class State(Enum):
    """Of an association."""

    NEW = auto()
    INIT_SENT = auto()
    COOKIE_SENT = auto()
    ESTABLISHED = auto()
    CLOSED = auto()


class Handshake:
    """init: ours. peer: theirs, once it is known. due: when to say it again, until it is answered."""

    def __init__(self, random: Callable[[int], bytes], window: int) -> None:
        tag, tsn = (int.from_bytes(random(4), "big") for _ in range(2))
        self.init = Init(tag or 1, window, STREAMS, STREAMS, tsn)
        self.peer: Init | None = None
        self.due = 0.0
        self._cookie, self._echo = random(16), b""
        self._starts = 0

    def begin(self, now: float) -> None:
        """Something is to be said, and again from its beginning."""
        self._starts, self.due = 0, now

    def greets(self, packet: bytes, ports: tuple[int, int]) -> Init | None:
        """The peer's INIT, which bears no tag yet; whatever else bears a wrong one is not for us. ports: theirs, and ours."""
        if not Header(*ports, 0).admits(packet):
            return None
        kind, _, value = next(wire.chunks(packet), (None, 0, b""))
        if kind != Type.INIT:
            return None
        try:
            return wire.unpack_init(value)
        except Malformed:
            return None

    @property
    def answer(self) -> bytes:
        """The INIT_ACK."""
        return wire.pack_init(self.init._replace(cookie=self._cookie))

    def acknowledged(self, value: bytes, now: float) -> Init:
        """The peer has answered with its own, and with a cookie to echo. Raises Malformed."""
        peer = wire.unpack_init(value)
        self._echo = peer.cookie
        self.begin(now)
        return peer

    def echoed(self, value: bytes) -> bool:
        """Whether it is what we gave the peer."""
        return value == self._cookie and self.peer is not None

    def again(self, state: State, now: float) -> tuple[Type, bytes] | None:
        """What is to be said: INIT or the cookie. None: it was said often enough, and the peer does not answer."""
        self._starts += 1
        if self._starts > START_ATTEMPTS:
            return None
        self.due = now + START_EVERY * min(self._starts, 4)
        if state is State.INIT_SENT:
            return Type.INIT, wire.pack_init(self.init)
        return Type.COOKIE_ECHO, self._echo
