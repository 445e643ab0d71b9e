"""Counts of what is used: bytes of a day and of a month (UTC), bytes stored, jobs open. No I/O; time is an argument."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec


class Tally(msgspec.Struct, frozen=True, array_like=True):
    """day: since 1970. month: since year 0. Sums of different days, or months, keep what is of the later one."""

    day: int = 0
    month: int = 0
    day_bytes: int = 0
    month_bytes: int = 0
    stored: int = 0
    jobs: int = 0

    def plus(self, other: Tally) -> Tally:
        day, month = max(self.day, other.day), max(self.month, other.month)
        return Tally(
            day,
            month,
            (self.day_bytes if self.day == day else 0) + (other.day_bytes if other.day == day else 0),
            (self.month_bytes if self.month == month else 0)
            + (other.month_bytes if other.month == month else 0),
            self.stored + other.stored,
            self.jobs + other.jobs,
        )

    def minus(self, other: Tally) -> Tally:
        return self.plus(
            Tally(other.day, other.month, -other.day_bytes, -other.month_bytes, -other.stored, -other.jobs)
        )

    def at(self, now: float) -> Tally:
        """As of now (seconds since 1970): what an earlier day or month used is past."""
        return self.plus(fresh(now))

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """In the order of `limits.LIMITED`."""
        return self.day_bytes, self.month_bytes, self.stored, self.jobs


class Charge(msgspec.Struct, frozen=True, array_like=True):
    """What the book holds for a job. id: of its reservation, empty for a job that is not metered.

    step: how often what is held has changed; a change that stands in the book but not here is the next step's.
    """

    id: str = ""
    step: int = 0
    held: Tally = Tally()

    @property
    def key(self) -> str:
        """Of the next step."""
        return f"{self.id}.{self.step}"

    def next(self, held: Tally) -> Charge:
        return Charge(self.id, self.step + 1, held)


def fresh(now: float) -> Tally:
    """Nothing used yet. now: seconds since 1970."""
    year, month = time.gmtime(now)[:2]
    return Tally(int(now // 86_400), year * 12 + month - 1)


def of_bytes(count: int, now: float, *, jobs: int = 0) -> Tally:
    """So many bytes, to be moved today and stored."""
    today = fresh(now)
    return Tally(today.day, today.month, count, count, count, jobs)


def settled(held: Tally, moved: int, *, stored: bool) -> Tally:
    """What a job that is open no more still holds. moved: bytes that were really stored; stored: they still are.

    What was reserved and never moved is given back to the day and the month on which it was reserved.
    """
    spare = held.stored - moved if held.jobs else 0
    return Tally(
        held.day,
        held.month,
        max(0, held.day_bytes - spare),
        max(0, held.month_bytes - spare),
        moved if stored else 0,
        0,
    )


def covers(one: Tally, other: Tally) -> bool:
    """Whether none of `one`'s counts is less."""
    return most(one, other) == one.plus(Tally(other.day, other.month))


def most(one: Tally, other: Tally) -> Tally:
    """The greater of each count, as of the later day and month."""
    a, b = one.plus(Tally(other.day, other.month)), other.plus(Tally(one.day, one.month))
    return Tally(a.day, a.month, *map(max, a.counts, b.counts))


def of_counts(counts: Sequence[int], now: float) -> Tally:
    """In the order of `limits.LIMITED`, of today."""
    today = fresh(now)
    return Tally(today.day, today.month, *counts)
