"""How hard to compress: harder while the route is what is waited for, less hard while the compressor is.

No I/O and no clock. A slow source changes nothing. Level 0 (off) is taken only where one connection alone moves more than what is
compressed and sealed here comes to: then compressing, however lightly, is what slows the transfer.
"""

from __future__ import annotations

LADDER = (0, 1, 3, 5, 7, 9)
"""zstd levels. Above 9 it gets several times slower for a few per cent."""
PERIOD = 0.5
"""Seconds of waiting, for one or the other, after which is judged."""
MOSTLY = 0.7
"""Share of the waiting from which on one thing is what is waited for."""
PUT_OFF, PUT_OFF_MOST = 8.0, 120.0
"""Seconds of waiting before a level that was too slow is tried again, doubled each time up to the most."""


class Effort:
    """level: zstd's, from now on."""

    def __init__(self, level: int) -> None:
        self.level = level
        self._made = self._source = self._route = 0.0
        self._raw = 0
        self._rest = 0.0
        self._put_off = PUT_OFF

    def moved(self, raw: int, made: float, source: float, route: float, alone: float | None) -> None:
        """One more frame went.

        raw: its bytes before compression. made, source, route: seconds that were waited for it to be compressed,
        for its bytes to be there, and for the route to take it. alone: bytes per second of one connection by
        itself, None if unknown.
        """
        self._raw += raw
        self._made += made
        self._source += source
        self._route += route
        self._rest -= made + source + route
        waited = self._made + self._source + self._route
        if waited < PERIOD:
            return
        compressor, link, rate = self._made / waited, self._route / waited, self._raw / waited
        self._made = self._source = self._route = 0.0
        self._raw = 0
        at = LADDER.index(self.level)
        if link > MOSTLY and at + 1 < len(LADDER) and self._rest <= 0:
            self.level = LADDER[at + 1]
        elif compressor > MOSTLY and self._lighter_pays(at, rate, alone):
            self.level = LADDER[at - 1]
            self._rest = self._put_off
            self._put_off = min(PUT_OFF_MOST, 2 * self._put_off)

    def _lighter_pays(self, at: int, rate: float, alone: float | None) -> bool:
        return at > 1 or (at == 1 and alone is not None and alone > rate)
