"""Quantities as people write and read them: sizes, durations, moments."""

from __future__ import annotations

import time
from datetime import datetime

from transfer import timetable
from transfer.errors import UsageError
from transfer.timetable import Timetable
from transfer.units import QUANTITY, SIZES, show_duration, show_size

__all__ = [
    "ago",
    "iso",
    "moment",
    "parse_duration",
    "parse_limit",
    "parse_rate",
    "parse_since",
    "parse_size",
    "show_duration",
    "show_size",
    "span",
]

_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def parse_size(text: str, *, option: str, command: str) -> int:
    """Bytes from `100MB` (10^6), `64MiB` (2^20), `2G` or plain bytes; letter case does not matter.

    Raises:
        UsageError: naming `option`, the value and the help of `command`.
    """
    hint = f"write 500, 100MB, 64MiB or 2G; see `xfer {command} --help`"
    number, unit = _split(text, SIZES, f"{option} {text!r} is not a size", hint)
    return int(number * SIZES[unit])


def parse_limit(text: str | None, *, option: str, command: str) -> float | Timetable | None:
    """As `parse_rate`, or a timetable of such: `08:00,2M 19:00,off`, `Mon-00:00,512k Sat-10:00,off`.

    Raises:
        UsageError: as `parse_rate`; also naming the entry that is none.
    """
    if text is None or not timetable.looks_like_one(text):
        return parse_rate(text, option=option, command=command)
    try:
        return timetable.parse(text, lambda rate: parse_rate(rate, option=option, command=command))
    except ValueError as wrong:
        raise UsageError(
            f"{option} {text!r} is not a timetable: {wrong}",
            hint="write each change as HH:MM,RATE or Mon-HH:MM,RATE: '08:00,2M 19:00,off'",
        ) from None


def parse_rate(text: str | None, *, option: str, command: str) -> float | None:
    """Bytes per second from `20M`, `500k` or `off`; None for no limit.

    Raises:
        UsageError: as `parse_size`; also for a rate at which nothing would ever arrive.
    """
    if text is None or text.lower() == "off":
        return None
    rate = parse_size(text, option=option, command=command)
    if rate < 1000:
        raise UsageError(
            f"{option} {text!r} would take for ever",
            hint="write bytes a second, at least 1k, or off: 20M, 500k",
        )
    return float(rate)


def parse_duration(text: str, *, option: str, command: str) -> float:
    """Seconds from `60s`, `10m`, `24h`, `7d` or plain seconds.

    Raises:
        UsageError: naming `option`, the value and the help of `command`.
    """
    hint = f"write 60s, 10m, 24h, 7d or plain seconds; see `xfer {command} --help`"
    number, unit = _split(text, _SECONDS, f"{option} {text!r} is not a duration", hint)
    return number * _SECONDS[unit]


def span(seconds: float) -> str:
    """`45 s`, `12 min`, `5 h`, `12 d`: roughly, in few columns."""
    for most, length, unit in ((90, 1, "s"), (5400, 60, "min"), (36 * 3600, 3600, "h")):
        if seconds < most:
            return f"{max(0, round(seconds / length))} {unit}"
    return f"{round(seconds / 86_400)} d"


def ago(seconds: float, now: float) -> str:
    """`3 min ago`, `in 5 h`. seconds, now: since 1970."""
    return f"in {span(seconds - now)}" if seconds > now else f"{span(now - seconds)} ago"


def moment(seconds: float) -> str:
    """seconds: since 1970; shown to the minute, in the zone of whoever reads."""
    return time.strftime("%Y-%m-%d %H:%M %Z", time.localtime(seconds)).strip()


def iso(seconds: float) -> str:
    """`2026-11-21T08:12:05Z`. seconds: since 1970. Source: RFC 3339, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def parse_since(text: str, *, option: str, command: str) -> float:
    """Seconds since 1970 from how long ago that was (`7d`), or from an ISO date or time, local unless it says otherwise.

    Raises:
        UsageError: as `parse_duration`.
    """
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        pass
    hint = f"write 24h, 7d, 2026-01-31 or 2026-01-31T18:00; see `xfer {command} --help`"
    number, unit = _split(text, _SECONDS, f"{option} {text!r} is neither a duration nor a date", hint)
    return time.time() - number * _SECONDS[unit]


def _split(text: str, units: dict[str, int] | dict[str, float], wrong: str, hint: str) -> tuple[float, str]:
    match = QUANTITY.fullmatch(text)
    if match is None or match[2].lower() not in units:
        raise UsageError(wrong, hint=hint)
    return float(match[1]), match[2].lower()
