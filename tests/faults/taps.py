"""What listens in on a wire: flips single bits of what crosses it, or looks for what must never be seen there."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable

from wires import Way

CLIENT, SERVER = 0, 1
"""Whose bytes."""


class FlipBodies:
    """Flips one bit in the bodies of HTTP messages, connection by connection.

    whose: the client's (uploads) or the server's (downloads). chosen: asked of each body, by its number from 0 and
    its length, for the byte to flip in it; None leaves it alone. flipped: how many bits were.
    """

    def __init__(self, whose: int, chosen: Callable[[int, int], int | None]) -> None:
        self.flipped = 0
        self._whose, self._chosen = whose, chosen
        self._bodies = 0

    def connected(self) -> tuple[Way, Way]:
        flip = _Messages(self._begin, self._flip).pass_on
        return (flip, _unchanged) if self._whose == CLIENT else (_unchanged, flip)

    def _begin(self, length: int) -> int | None:
        number, self._bodies = self._bodies, self._bodies + 1
        return self._chosen(number, length)

    def _flip(self, data: bytearray, at: int) -> None:
        data[at] ^= 1 << at % 8
        self.flipped += 1


class _Messages:
    """One direction of one HTTP/1.1 connection: heads as they are, bodies with a chosen byte changed.

    Bodies have a Content-Length here: neither xfer nor SeaweedFS sends others.
    """

    def __init__(self, begin: Callable[[int], int | None], flip: Callable[[bytearray, int], None]) -> None:
        self._begin, self._flip = begin, flip
        self._head = b""
        self._left = 0
        self._target: int | None = None

    def pass_on(self, data: bytes) -> bytes:
        out = bytearray()
        while data:
            if self._left:
                body, data = bytearray(data[: self._left]), data[self._left :]
                if self._target is not None and self._target < len(body):
                    self._flip(body, self._target)
                    self._target = None
                elif self._target is not None:
                    self._target -= len(body)
                self._left -= len(body)
                out += body
                continue
            before = len(self._head)
            head, end, _ = (self._head + data).partition(b"\r\n\r\n")
            if not end:
                self._head += data
                out += data
                break
            used = len(head) + len(end) - before
            out += data[:used]
            data, self._head = data[used:], b""
            length = re.search(rb"(?im)^content-length: *(\d+)", head)
            self._left = int(length[1]) if length else 0
            self._target = self._begin(self._left) if self._left else None
        return bytes(out)


class FlipStream:
    """Flips one bit of each connection's first bytes, at a place drawn anew: of the client's or of the server's.

    most: connections that are hit at all; the others pass as they are.
    """

    def __init__(self, whose: int, draw: random.Random, among: int, most: int) -> None:
        self.flipped = 0
        self._whose, self._draw, self._among, self._left = whose, draw, among, most

    def connected(self) -> tuple[Way, Way]:
        if not self._left:
            return _unchanged, _unchanged
        self._left -= 1
        at, bit = self._draw.randrange(self._among), 1 << self._draw.randrange(8)
        passed = 0

        def flip(data: bytes) -> bytes:
            nonlocal passed
            here, passed = at - passed, passed + len(data)
            if not 0 <= here < len(data):
                return data
            self.flipped += 1
            return data[:here] + bytes([data[here] ^ bit]) + data[here + 1 :]

        return (flip, _unchanged) if self._whose == CLIENT else (_unchanged, flip)


class Watch:
    """Keeps all that crosses, both ways, connection by connection."""

    def __init__(self) -> None:
        self._heard: list[bytearray] = []

    def connected(self) -> tuple[Way, Way]:
        return self._listener(), self._listener()

    @property
    def heard(self) -> int:
        """Bytes."""
        return sum(map(len, self._heard))

    def saw(self, text: bytes) -> bool:
        return any(text in heard for heard in self._heard)

    def _listener(self) -> Way:
        heard = bytearray()
        self._heard.append(heard)

        def listen(data: bytes) -> bytes:
            heard.extend(data)
            return data

        return listen


class Hold:
    """Lets nothing more through on a connection from the moment that a text comes along in the client's bytes.

    text: what to wait for. answer: let that request through and hold what the server says to it. held: set at that moment.
    """

    def __init__(self, text: bytes, *, answer: bool = False) -> None:
        self.held = threading.Event()
        self._text, self._answer = text, answer

    def connected(self) -> tuple[Way, Way]:
        seen = False

        def there(data: bytes) -> bytes:
            nonlocal seen
            if seen and not self._answer:
                return b""
            if self._text not in data:
                return data
            seen = True
            self.held.set()
            return data if self._answer else b""

        return there, lambda data: b"" if seen else data


class Count:
    """How often a text came along in the clients' bytes."""

    def __init__(self, text: bytes) -> None:
        self.seen = 0
        self._text = text

    def connected(self) -> tuple[Way, Way]:
        def count(data: bytes) -> bytes:
            self.seen += data.count(self._text)
            return data

        return count, _unchanged


def _unchanged(data: bytes) -> bytes:
    return data
