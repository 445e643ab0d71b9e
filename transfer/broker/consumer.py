"""A consumer's page in a room and its law: which items it has had, holds, failed at and gave up. No I/O; time is an argument.

An item is one number. It is offered until it was had, or given up; it is held by one holder at a time, for LEASE seconds.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from transfer.api import ErrorCode
from transfer.broker.job import Refusal
from transfer.rooms_api import LEASE, RoomMark

Value = TypeVar("Value")

PAGE_VERSION = 1
MAX_HAD = 20_000
"""Items beyond the floor that a page remembers one by one: 200 KB of the 1 MB that a value may have."""
MAX_HELD = 1000
"""Items that are held at a time: 120 KB."""
MAX_FAILED = 500
"""Items given up, and as many that failed before: a reason takes 1.2 KB at most."""


class Hold(msgspec.Struct, frozen=True):
    """until: seconds since 1970; from then on anybody may take it."""

    holder: str
    until: float


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """What brokers know of a consumer.

    user: whose it is, "" for one that all members share. floor: up to and including this number it has had all there are.
    had: those above, in order. failed: how often each did, of those that are offered. given_up: number to reason.
    seen: when it last said something, seconds since 1970.
    """

    v: int = PAGE_VERSION
    name: str
    user: str = ""
    floor: int = 0
    had: tuple[int, ...] = ()
    held: dict[int, Hold] = {}
    failed: dict[int, int] = {}
    given_up: dict[int, str] = {}
    seen: float = 0.0

    @property
    def shared(self) -> bool:
        return not self.user

    def marked(self, mark: RoomMark, *, now: float, tries: int) -> Page:
        """All of a request in one step; the same one again changes nothing but how long things are held.

        No number may stand in two lists, but for `again` and `take`. Raises Refusal (over quota).
        """
        page = self.done_with(mark.had).fail(mark.failed, mark.holder, tries=tries)
        page = page.drop(mark.drop, mark.holder).again(mark.again)
        page = page.take(mark.take, mark.holder, now=now).hold(mark.hold, mark.holder, now=now)
        return replace(page, seen=now)

    def offers(self, number: int) -> bool:
        at = bisect_left(self.had, number)
        had = number <= self.floor or self.had[at : at + 1] == (number,)
        return not had and number not in self.given_up

    def busy(self, number: int, now: float) -> float:
        """Until when somebody holds it; 0.0 if nobody does."""
        hold = self.held.get(number)
        return hold.until if hold is not None and hold.until > now else 0.0

    def holds(self, holder: str, now: float) -> dict[int, float]:
        """What that holder holds, and until when."""
        return {n: h.until for n, h in sorted(self.held.items()) if h.holder == holder and h.until > now}

    def take(self, numbers: Iterable[int], holder: str, *, now: float) -> Page:
        """Those of them that are offered and that nobody else holds are this holder's."""
        mine = {
            n: Hold(holder, now + LEASE)
            for n in numbers
            if self.offers(n) and (self._is_of(n, holder) or not self.busy(n, now))
        }
        held = self.held | mine
        if len(held) > MAX_HELD:
            held = {n: hold for n, hold in held.items() if hold.until > now}
        if len(held) > MAX_HELD:
            raise _over(f"a consumer holds at most {MAX_HELD:,} items at a time: end some of them first")
        return replace(self, held=held)

    def hold(self, numbers: Iterable[int], holder: str, *, now: float) -> Page:
        """As before, from now on; also if the time was up and nobody has come since."""
        kept = {n: Hold(holder, now + LEASE) for n in numbers if self._is_of(n, holder)}
        return replace(self, held=self.held | kept)

    def drop(self, numbers: Iterable[int], holder: str) -> Page:
        """Given back by whoever holds them."""
        back = {n for n in numbers if self._is_of(n, holder)}
        return replace(self, held=_without(self.held, back))

    def done_with(self, numbers: Iterable[int]) -> Page:
        """Never offered again, whoever holds them. Raises Refusal (over quota)."""
        done = {n for n in numbers if n > self.floor}
        had = done.union(self.had)
        if len(had) > MAX_HAD and len(had) > len(self.had):
            raise _over(
                f"{MAX_HAD:,} items were done since one that this consumer has neither had nor skipped: "
                "fetch or skip its oldest one first"
            )
        return replace(
            self,
            had=tuple(sorted(had)),
            held=_without(self.held, done),
            failed=_without(self.failed, done),
            given_up=_without(self.given_up, done),
        )

    def fail(self, reasons: Mapping[int, str], holder: str, *, tries: int) -> Page:
        """Given back by whoever holds them, and counted; given up after so many, if all members share it.

        Raises Refusal (over quota).
        """
        mine = {n: reason for n, reason in reasons.items() if self._is_of(n, holder)}
        counts = {n: self.failed.get(n, 0) + 1 for n in mine}
        over = {n: mine[n] for n, count in counts.items() if self.shared and count >= tries}
        failed, given_up = _without(self.failed | counts, set(over)), self.given_up | over
        if len(given_up) > MAX_FAILED:
            raise _over(f"{MAX_FAILED} items are given up already: have them tried again, or skip them")
        for oldest in sorted(failed)[: max(0, len(failed) - MAX_FAILED)]:
            del failed[oldest]  # it is tried more often than it might be
        return replace(self, held=_without(self.held, set(mine)), failed=failed, given_up=given_up)

    def again(self, numbers: Iterable[int]) -> Page:
        """What was given up is offered again, as if it had never failed."""
        return replace(self, given_up=_without(self.given_up, set(numbers)))

    def settled(self, existing: Collection[int], upto: int) -> Page:
        """What is over is forgotten, and the floor moves up.

        existing: the numbers of all items there are above the floor, up to and including `upto`. One that is no more never
        comes again: nobody is told of it.
        """
        if upto <= self.floor:
            return self
        there, had = frozenset(existing), frozenset(self.had)
        floor = min((n for n in there if n not in had), default=upto + 1) - 1
        over = {n for n in {*had, *self.held, *self.failed, *self.given_up} if n <= upto and n not in there}
        return replace(
            self,
            floor=floor,
            had=tuple(n for n in self.had if n > floor and n not in over),
            held=_without(self.held, over),
            failed=_without(self.failed, over),
            given_up=_without(self.given_up, over),
        )

    def _is_of(self, number: int, holder: str) -> bool:
        return number in self.held and self.held[number].holder == holder


def _without(those: Mapping[int, Value], numbers: Collection[int]) -> dict[int, Value]:
    return {n: value for n, value in those.items() if n not in numbers}


def _over(message: str) -> Refusal:
    return Refusal(ErrorCode.OVER_QUOTA, message)
