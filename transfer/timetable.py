"""A timetable: what holds at which hour of which day, as `08:00,2M 19:00,off` or `Mon-00:00,512k Sat-10:00,off`."""

from __future__ import annotations

import bisect
import re
import time
from collections.abc import Callable

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
"""As `time.struct_time` counts them."""
_ENTRY = re.compile(r"(?:([a-z]+)-)?(\d{1,2}):(\d{2}),([^,\s]+)", re.IGNORECASE | re.ASCII)
_DAY = 24 * 60


class Timetable:
    """Gives the rate of the moment when called: bytes a second, None for no limit. Local time, also across summer time.

    rates: by the minute of the week from which on each holds, Monday 00:00 being 0. The last one of the week
    holds on into the next.
    """

    def __init__(self, rates: dict[int, float | None], clock: Callable[[], float] = time.time) -> None:
        self._minutes = sorted(rates)
        self._rates = [rates[minute] for minute in self._minutes]
        self._clock = clock

    def __call__(self) -> float | None:
        return self.at(time.localtime(self._clock()))

    def at(self, now: time.struct_time) -> float | None:
        minute = now.tm_wday * _DAY + now.tm_hour * 60 + now.tm_min
        return self._rates[bisect.bisect_right(self._minutes, minute) - 1]


def looks_like_one(text: str) -> bool:
    """Whether it is meant to be a timetable: a plain rate has neither."""
    return ":" in text or "," in text


def parse(text: str, rate: Callable[[str], float | None]) -> Timetable:
    """Entries `[DAY-]HH:MM,RATE` between blanks; one without a day holds on every day.

    rate: reads an entry's rate, and may raise what it likes.

    Raises:
        ValueError: says which entry is none, or is there twice.
    """
    rates: dict[int, float | None] = {}
    for entry in text.split():
        match = _ENTRY.fullmatch(entry)
        day = _day(match[1]) if match is not None and match[1] else None
        if match is None or int(match[2]) > 23 or int(match[3]) > 59 or (match[1] and day is None):
            raise ValueError(f"{entry!r} is not DAY-HH:MM,RATE or HH:MM,RATE")
        value = rate(match[4])
        for each in range(7) if day is None else (day,):
            minute = each * _DAY + int(match[2]) * 60 + int(match[3])
            if minute in rates:
                raise ValueError(f"{entry!r} names a minute that an entry before it has")
            rates[minute] = value
    if not rates:
        raise ValueError("it is empty")
    return Timetable(rates)


def _day(name: str) -> int | None:
    """From its name or the beginning of it, three letters at least."""
    found = [number for number, day in enumerate(DAYS) if len(name) > 2 and day.startswith(name.lower())]
    return found[0] if found else None
