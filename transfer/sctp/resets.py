"""The end of streams in both directions (RFC 6525).

A data channel is closed by the reset of its stream, which each end answers with its own (RFC 8831 section 6.7).
"""

from __future__ import annotations

import struct

from transfer.sctp.packet import WORD, Parameter, parameter, parameters

DONE, LATER = 1, 6
"""Results: performed; data of those streams is still on its way."""
STREAMS = 64
"""Streams in one request: it fits every packet."""
_REQUEST = struct.Struct("!III")
_RESPONSE = struct.Struct("!II")


class Resets:
    """Which streams have ended, and what is to be said of it.

    by_peer: the streams that the peer will send no more on.

    Args:
        ours, theirs: the initial TSNs as 32-bit words, from which requests are counted.
    """

    def __init__(self, ours: int, theirs: int) -> None:
        self.by_peer: set[int] = set()
        self._number, self._expected = ours, theirs
        self._wanted: list[int] = []
        self._asking: bytes | None = None
        self._again = 0.0

    def want(self, stream: int) -> None:
        """We shall send no more on that stream."""
        self._wanted.append(stream)

    @property
    def due(self) -> float | None:
        """When `request` is to be called; None: there is nothing to ask."""
        return self._again if self._asking or self._wanted else None

    def request(self, last: int, now: float, retry: float) -> bytes | None:
        """The parameter to send now: one request at a time, until it is answered.

        last: the TSN that was sent last, and nothing of those streams waits. retry: seconds.
        """
        if now < self._again:
            return None
        if self._asking is None and self._wanted:
            streams, self._wanted = self._wanted[:STREAMS], self._wanted[STREAMS:]
            head = _REQUEST.pack(self._number, self._expected - 1 & WORD, last & WORD)
            self._asking = head + struct.pack(f"!{len(streams)}H", *streams)
        if self._asking is None:
            return None
        self._again = now + retry
        return parameter(Parameter.RESET_OUTGOING, self._asking)

    def received(self, value: bytes, cumulative: int) -> tuple[list[bytes], list[int]]:
        """A RE-CONFIG chunk: the parameters that answer it, and our streams whose end the peer has taken note of.

        cumulative: the TSN up to which all has arrived, as a 32-bit word.
        """
        answers: list[bytes] = []
        ended: list[int] = []
        for kind, body in parameters(value):
            if kind == Parameter.RESET_RESPONSE and len(body) >= _RESPONSE.size:
                ended += self._answered(*_RESPONSE.unpack_from(body))
            if kind != Parameter.RESET_OUTGOING or len(body) < _REQUEST.size:
                continue
            number, _, last = _REQUEST.unpack_from(body)
            done = cumulative - last & WORD < 1 << 31
            answers.append(
                parameter(Parameter.RESET_RESPONSE, _RESPONSE.pack(number, DONE if done else LATER))
            )
            if done and number == self._expected:
                self._expected = number + 1 & WORD
                self.by_peer.update(_streams(body))
        return answers, ended

    def _answered(self, number: int, result: int) -> tuple[int, ...]:
        """The streams of the request that was answered. Only LATER says that it is to be asked again."""
        asked = self._asking
        if asked is None or number != self._number or result == LATER:
            return ()
        self._asking, self._again = None, 0.0
        self._number = number + 1 & WORD
        return _streams(asked) if result == DONE else ()


def _streams(request: bytes) -> tuple[int, ...]:
    return struct.unpack_from(f"!{(len(request) - _REQUEST.size) // 2}H", request, _REQUEST.size)
