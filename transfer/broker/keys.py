"""Where a job's objects lie: keys that say how long at most they are kept, whose they are, and which job's.

`<prefix><lifetime>d/<realm>/<job>/<segment>`. The lifetime comes first because a bucket's lifecycle rules choose by
prefix (see `lifecycle`); the realm is that of the job records, so that brokers which keep other records, or lost
theirs, never take for orphans what is not theirs to judge.
"""

from __future__ import annotations

import re
from typing import NamedTuple

DAY = 86_400.0
LIFETIMES = (30, 366, 3660)
"""Days. A job belongs to the first that its expiry fits in; the last is the longest expiry there is."""
MAX_EXPIRE = LIFETIMES[-1] * DAY
PROBES = "probe/"
"""Where `checkup` puts what it reads again, without the prefix: no job's folder begins so."""
_KEY = re.compile(r"([0-9]+d/([a-z0-9]+)/([a-z0-9]+))/([0-9]{6})")


class Place(NamedTuple):
    """What a key says. folder: of its job, without the prefix."""

    folder: str
    realm: str
    job: str
    segment: int


def folder_of(job: str, realm: str, expire: float) -> str:
    """expire: seconds that it is kept once stored, at most MAX_EXPIRE."""
    days = next(days for days in LIFETIMES if expire <= days * DAY)
    return f"{days}d/{realm}/{job}"


def lifetime_of(folder: str) -> float:
    """Seconds that its job may be kept once stored."""
    return int(folder.partition("d/")[0]) * DAY


def key_of(folder: str, segment: int) -> str:
    """Without the prefix."""
    return f"{folder}/{segment:06d}"


def place_of(key: str) -> Place | None:
    """key: without the prefix. None if it is none of ours."""
    named = _KEY.fullmatch(key)
    return Place(named[1], named[2], named[3], int(named[4])) if named else None


def roots(realm: str) -> list[str]:
    """Where all of a realm's folders are, without the prefix."""
    return [f"{days}d/{realm}/" for days in LIFETIMES]
