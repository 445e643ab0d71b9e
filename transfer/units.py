"""Sizes and durations as people write and read them."""

from __future__ import annotations

import re

SIZES = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgtp", start=1):
    SIZES |= {_letter: 1000**_power, f"{_letter}b": 1000**_power, f"{_letter}ib": 1024**_power}
QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE | re.ASCII)


def size_of(text: str) -> int:
    """Bytes from `100MB` (10^6), `64MiB` (2^20), `2G` or plain bytes; letter case does not matter. Raises ValueError."""
    match = QUANTITY.fullmatch(text)
    if match is None or match[2].lower() not in SIZES:
        raise ValueError(f"{text!r} is not a size")
    return int(float(match[1]) * SIZES[match[2].lower()])


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
