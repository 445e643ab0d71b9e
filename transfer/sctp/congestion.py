"""How much may be on its way: what every controller answers, and the choice between them.

Below the round trip of a local network the path is no model worth having: what stands there is the hosts' own
buffers and turns, and CUBIC finds them. On every longer path a model of it (`transfer.sctp.model`) keeps its rate
when packets are lost for other reasons than a full queue.
"""

from __future__ import annotations

from typing import Protocol

from transfer.sctp.cubic import Cubic
from transfer.sctp.model import Model
from transfer.sctp.sending import Sample
from transfer.sctp.timing import RoundTrip

LOCAL = 0.0015
"""Seconds: a shorter round trip is one within a host or a local network."""


class Controller(Protocol):
    """What `Association` asks.

    window: bytes of payload that may be on their way. rate: bytes per second they are sent at; 0: as they come.
    piece: bytes of payload of a packet.
    """

    piece: int

    @property
    def window(self) -> int: ...

    @property
    def rate(self) -> float: ...

    def sacked(self, sample: Sample, trip: RoundTrip, flight: int, now: float) -> None:
        """A SACK came. flight: bytes on their way after it."""
        ...

    def timed_out(self, flight: int, now: float) -> None:
        """Everything on its way was lost."""
        ...


class Adaptive:
    """The controller for the path as it shows itself: begins as CUBIC, and knows with the first round trip."""

    def __init__(self, piece: int) -> None:
        self.piece = piece
        self._active: Controller = Cubic(piece)
        self._modelled = False

    @property
    def window(self) -> int:
        return self._active.window

    @property
    def rate(self) -> float:
        return self._active.rate

    def sacked(self, sample: Sample, trip: RoundTrip, flight: int, now: float) -> None:
        modelled = LOCAL <= trip.shortest < float("inf")
        if modelled is not self._modelled:
            self._modelled = modelled
            window = self._active.window
            self._active = Model(self.piece, window) if modelled else Cubic(self.piece, window)
        self._active.piece = self.piece
        self._active.sacked(sample, trip, flight, now)

    def timed_out(self, flight: int, now: float) -> None:
        self._active.timed_out(flight, now)
