"""Quantities as people write and read them: sizes and durations."""

from __future__ import annotations

import re

from transfer.errors import UsageError

_SIZES = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgtp", start=1):
    _SIZES |= {_letter: 1000**_power, f"{_letter}b": 1000**_power, f"{_letter}ib": 1024**_power}
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE | re.ASCII)


def parse_size(text: str, *, option: str, command: str) -> int:
    """Bytes from `100MB` (10^6), `64MiB` (2^20), `2G` or plain bytes; letter case does not matter.

    Raises:
        UsageError: naming `option`, the value and the help of `command`.
    """
    hint = f"write 500, 100MB, 64MiB or 2G; see `xfer {command} --help`"
    number, unit = _split(text, _SIZES, f"{option} {text!r} is not a size", hint)
    return int(number * _SIZES[unit])


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


def show_size(count: float) -> str:
    """`999 B`, `3.0 MB`, `1.00 GB`: decimal units, and a step never looks like no progress."""
    for unit, digits in (("B", 0), ("kB", 1), ("MB", 1), ("GB", 2)):
        if count < 999.5:
            return f"{count:.{digits}f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"


def show_duration(seconds: float) -> str:
    """`0.4 s`, `42 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def _split(text: str, units: dict[str, int] | dict[str, float], wrong: str, hint: str) -> tuple[float, str]:
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2].lower() not in units:
        raise UsageError(wrong, hint=hint)
    return float(match[1]), match[2].lower()
