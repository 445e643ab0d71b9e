"""One user's page in the quota's book, and what may be done to it. No I/O; time is an argument.

A job's share of the counters changes in two places: here and on its record. It changes here first, and leaves a `Move`
behind until the record has followed; so whoever finds a move knows what is left to do, however its maker ended, and
nothing is counted twice or given back twice.
"""

from __future__ import annotations

import calendar
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from transfer.api import ErrorCode, JobState
from transfer.broker.job import JobRecord, Refusal
from transfer.broker.limits import Limits
from transfer.broker.tally import Charge, Tally, fresh, of_bytes
from transfer.units import show_duration, show_size

DAY = 86_400
_ALL = "what all may send today", "what all may send this month", "what all may store"


class Move(msgspec.Struct, frozen=True, array_like=True):
    """This page holds so much for a job; its record is to follow. at: seconds since 1970."""

    job: str
    held: Tally
    at: float


class Share(msgspec.Struct, frozen=True, array_like=True):
    """What one broker has put on this page, all in all. tag: of its last write here."""

    tag: str
    tally: Tally


class Account(msgspec.Struct, array_like=True):
    """A user's page. used: as of the last write. moves: by the key of their step. shares: by broker."""

    used: Tally = Tally()
    moves: dict[str, Move] = {}
    shares: dict[str, Share] = {}


class Step(NamedTuple):
    """A move and its key."""

    key: str
    held: Tally


@dataclass
class Draft:
    """A page that is being changed by one broker. out, into: what these changes take off it and put on it."""

    account: Account
    now: float
    changed: bool = False
    out: Tally = field(default_factory=Tally)
    into: Tally = field(default_factory=Tally)

    def shift(self, key: str, job: str, before: Tally, after: Tally) -> Step:
        self._count(before, after)
        self.account.moves[key] = Move(job, after, self.now)
        return Step(key, after)

    def forget(self, key: str, *, refund: bool = False) -> None:
        move = self.account.moves.pop(key, None)
        if move is not None:
            self.changed = True
            if refund:
                self._count(move.held, Tally())

    def _count(self, before: Tally, after: Tally) -> None:
        self.account.used = self.account.used.minus(before).plus(after)
        self.out, self.into = self.out.plus(before), self.into.plus(after)
        self.changed = True


@dataclass
class Reserve:
    """A job is to begin. size: bytes declared."""

    job: str
    size: int
    limits: Limits
    looks_at = None

    def apply(self, draft: Draft, _record: JobRecord | None) -> Charge:
        """Raises Refusal (over_quota)."""
        held = of_bytes(self.size, draft.now, jobs=1)
        check(self.limits, draft.account.used, held, draft.now)
        charge = Charge(secrets.token_hex(8))
        draft.shift(charge.key, self.job, Tally(), held)
        return charge.next(held)


class Short(Exception):
    """So many bytes are missing."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.count = count


@dataclass
class Follow:
    """What is held for a job follows its record: more while it is open, as `claimed` says; what it should afterwards.

    looks_at: the job; its record must have been read after the page. claimed: bytes to be covered. more: bytes that
    it may grow by.
    """

    looks_at: str
    limits: Limits
    claimed: int = 0
    more: int = 0

    def apply(self, draft: Draft, record: JobRecord | None) -> Step | None:
        """The step that the record has to follow; None if there is none. Raises Refusal (over_quota), Short."""
        if record is None or not record.charge.id:
            return None
        charge = record.charge
        for step in range(max(0, charge.step - 2), charge.step):
            draft.forget(f"{charge.id}.{step}")
        if charge.key in draft.account.moves:
            return Step(charge.key, draft.account.moves[charge.key].held)
        after = record.should_hold
        if record.state is JobState.OPEN:
            short = self.claimed - charge.held.stored - slack(record.size)
            if short <= 0:
                return None
            if short > self.more:
                raise Short(short)
            growth = of_bytes(self.more, draft.now)
            check(self.limits, draft.account.used, growth, draft.now)
            after = charge.held.plus(growth)
        if after == charge.held:
            return None
        return draft.shift(charge.key, self.looks_at, charge.held, after)


@dataclass
class Mend:
    """A move whose maker is gone: what no record tells of is given back; what one does, it follows."""

    looks_at: str
    key: str

    def apply(self, draft: Draft, record: JobRecord | None) -> Step | None:
        move = draft.account.moves.get(self.key)
        if move is None:
            return None
        reservation, _, step = self.key.rpartition(".")
        if record is not None and record.charge.key == self.key:
            return Step(self.key, move.held)
        begun = record is not None and record.charge.id == reservation
        draft.forget(self.key, refund=step == "0" and not begun)
        return None


def slack(size: int | None) -> int:
    """Bytes that sealing, the index and the list of files may add to what was declared, uncounted while a job is open."""
    return 0 if size is None else (1 << 20) + size // 64


def check(limits: Limits, used: Tally, more: Tally, now: float) -> None:
    """Raises Refusal (over_quota), saying what is used, what is left and when it resets."""
    counts = used.at(now).counts
    index = exceeded(limits, counts, more)
    if index is not None:
        limit = limits.counts[index] or 0
        raise Refusal(ErrorCode.OVER_QUOTA, _sentence(index, limit, counts[index], more.counts[index], now))


def exceeded(limits: Limits, used: Sequence[int], more: Tally) -> int | None:
    """Which limit does not let that much more in (its place in `limits.LIMITED`); None: all do."""
    for index, (limit, count, asked) in enumerate(zip(limits.counts, used, more.counts, strict=True)):
        if limit is not None and asked > 0 and count + asked > limit:
            return index
    return None


def used_up(index: int, more: Tally, now: float) -> Refusal:
    """What all users together may use has no room for that. It tells of nobody's use but the asking user's own request."""
    asked = more.counts[index]
    if index == 3:
        what = "no more jobs may be open just now; another can begin when one ends"
    else:
        what = f"{_ALL[index]} is used up but for less than the {show_size(asked)} that this needs; {_until(index, now)}"
    return Refusal(ErrorCode.OVER_QUOTA, f"over quota of all users together: {what}")


def resets(now: float) -> tuple[float, float]:
    """When the next day and the next month begin (UTC), seconds since 1970."""
    today = fresh(now)
    year, month = divmod(today.month + 1, 12)
    return (today.day + 1.0) * DAY, float(calendar.timegm((year, month + 1, 1, 0, 0, 0)))


def _sentence(index: int, limit: int, used: int, asked: int, now: float) -> str:
    if index == 3:
        return f"over quota: {used:,} of {limit:,} jobs are open; another can begin when one ends"
    what = ("used today", "used this month", "stored")[index]
    left = show_size(max(0, limit - used))
    return (
        f"over quota: {show_size(used)} of {show_size(limit)} {what}, {left} left, this needs {show_size(asked)}; "
        f"{_until(index, now)}"
    )


def _until(index: int, now: float) -> str:
    day, month = resets(now)
    return (
        f"it resets at 00:00 UTC (in {show_duration(day - now)})",
        f"it resets on the 1st at 00:00 UTC (in {_long(month - now)})",
        "it falls when a transfer is void, expires or has had its last fetch",
    )[index]


def _long(seconds: float) -> str:
    days = int(seconds // DAY)
    return f"{days} {'day' if days == 1 else 'days'}" if days else show_duration(seconds)
