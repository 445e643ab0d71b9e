"""Wherever a broker dies: nothing stays reserved for ever, nothing is given back twice."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from nats.aio.client import Client

from transfer.api import JobState
from transfer.broker.account import Account, Follow
from transfer.broker.book import Shelf
from transfer.broker.job import JobRecord, Refusal
from transfer.broker.limits import Quota
from transfer.broker.quotas import ABANDONED_AFTER, Quotas
from transfer.broker.records import Records
from transfer.broker.rules import read
from transfer.broker.tally import Tally
from transfer.errors import BusUnreachable
from transfer.seal import hash_token
from transfer.ticket import Ticket

NOON = 1_800_014_400.0
"""Seconds since 1970: midday, so that no test crosses midnight."""
GB = 10**9


class Died(Exception):
    """The broker did."""


class Fate:
    """Dies at one of the calls that reach the bus: before it, or once it is done."""

    def __init__(self, at: int | None, *, after: bool) -> None:
        self.at, self.after, self.calls = at, after, 0

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        async def run(*args: Any, **more: Any) -> Any:
            number, self.calls = self.calls, self.calls + 1
            if (number == self.at and not self.after) or (self.at is not None and number > self.at):
                raise Died
            result = await call(*args, **more)
            if number == self.at:
                raise Died
            return result

        return run


class Doomed:
    """An object whose calls share a fate."""

    def __init__(self, real: object, fate: Fate, *names: str) -> None:
        for name in names:
            setattr(self, name, fate.around(getattr(real, name)))


@pytest.fixture
async def shelf(client: Client) -> Shelf:
    return await Shelf.attach(client)


@pytest.fixture
def user() -> str:
    return f"u{secrets.token_hex(4)}"


def quotas(shelf: Any, records: Any, *, later: float = 0.0, rules: Quota | None = None) -> Quotas:
    return Quotas(shelf, records, lambda: rules or Quota(), lambda: NOON + later)


def fresh_record(user: str, **changes: Any) -> JobRecord:
    ticket = Ticket.new()
    return JobRecord(
        job=ticket.job,
        owner=user,
        token_hash=hash_token("token"),
        created=NOON,
        expires=NOON + 1e6,
        expire=60.0,
        folder=f"30d/realm/{ticket.job}",
        **{"size": None, **changes},
    )


async def begun(quotas: Quotas, records: Records, user: str, size: int) -> JobRecord:
    """A job with its record, not confirmed on the page."""
    record = fresh_record(user, size=size)
    charge = await quotas.reserve(user, record.job, size)
    record = _with(record, charge=charge)
    assert await records.create(record)
    return record


def _with(record: JobRecord, **changes: Any) -> JobRecord:
    return msgspec.structs.replace(record, **changes)


def used(page: Account) -> tuple[int, int, int, int]:
    return page.used.counts


# --- every point of a job's life


async def live(quotas: Quotas, records: Any, user: str, record: JobRecord) -> None:
    """From its reservation to the end of its objects, with all that touches the book."""
    job, when = record.job, {"now": NOON, "life": 1e6}
    charge = await quotas.reserve(user, job, record.size)
    assert await records.create(_with(record, charge=charge))
    quotas.confirm(user, charge)
    await records.change(job, lambda r: r.begin(0, "u0", **when))
    await quotas.sign(user, job, 0, "u0", {1: 1000})
    await quotas.sign(user, job, 0, "u0", {2: 80 << 20})
    await records.change(job, lambda r: r.complete(0, "u0", size=1000, **when))
    change = await records.change(job, lambda r: r.finish(JobState.STORED, 1, now=NOON))
    await quotas.settle(change.after)
    change = await records.change(job, lambda r: _with(r.settle(JobState.VOID, now=NOON), cleared=True))
    await quotas.settle(change.after)
    await quotas.book.tidy()


@pytest.mark.parametrize("after", [False, True], ids=["before a call", "after a call"])
@pytest.mark.parametrize("size", [None, 5000])
async def test_wherever_a_broker_dies_the_next_one_makes_the_book_agree_with_the_records(
    shelf: Shelf, records: Records, user: str, after: bool, size: int | None
) -> None:
    for at in itertools.count():
        owner, fate = f"{user}-{at}", Fate(at, after=after)
        doomed = Doomed(shelf, fate, "read", "write", "users", "tell", "hear")
        theirs = Doomed(records, fate, "create", "change", "read")
        record = fresh_record(owner, size=size)
        died = True
        with contextlib.suppress(Died):
            await live(quotas(doomed, theirs), theirs, owner, record)
            died = False
        survivor = quotas(shelf, records, later=ABANDONED_AFTER + 1)
        await survivor.mend()
        if (left := await records.read(record.job)) is not None:
            await survivor.settle(left)
        await survivor.book.tidy()
        page, left = await survivor.book.read(owner), await records.read(record.job)
        holds = left.charge.held if left is not None else Tally()
        assert used(page) == holds.counts, at
        assert not page.moves, at
        assert left is None or not left.unsettled
        await survivor.close()
        if not died:
            assert used(page) == (1000, 1000, 0, 0)
            assert at > 10
            return


# --- the points by name


async def test_a_reservation_whose_job_was_never_recorded_is_given_back_later_but_not_at_once(
    shelf: Shelf, records: Records, user: str
) -> None:
    dead = quotas(shelf, records)
    await dead.reserve(user, Ticket.new().job, GB)
    await quotas(shelf, records, later=ABANDONED_AFTER - 1).mend()
    assert used(await dead.book.read(user)) == (GB, GB, GB, 1)
    await quotas(shelf, records, later=ABANDONED_AFTER + 1).mend()
    assert used(await dead.book.read(user)) == (0, 0, 0, 0)


async def test_a_reservation_whose_job_was_recorded_stays(shelf: Shelf, records: Records, user: str) -> None:
    dead = quotas(shelf, records)
    await begun(dead, records, user, GB)
    await quotas(shelf, records, later=ABANDONED_AFTER + 1).mend()
    page = await dead.book.read(user)
    assert (used(page), page.moves) == ((GB, GB, GB, 1), {})


async def test_what_was_given_back_before_the_record_said_so_is_not_given_back_again(
    shelf: Shelf, records: Records, user: str
) -> None:
    dead = quotas(shelf, records)
    await begun(dead, records, user, GB)
    record = await begun(dead, records, user, GB)
    change = await records.change(record.job, lambda r: r.settle(JobState.VOID, now=NOON))
    await dead.book.do(user, Follow(record.job, Quota().of(user)))
    assert used(await dead.book.read(user)) == (GB, GB, GB, 1)
    survivor = quotas(shelf, records)
    settled = await survivor.settle(change.after)
    assert not settled.unsettled
    await survivor.settle(change.after)
    assert used(await dead.book.read(user)) == (GB, GB, GB, 1)


async def test_who_read_the_record_before_another_settled_it_gives_nothing_back(
    shelf: Shelf, records: Records, user: str
) -> None:
    first, second = quotas(shelf, records), quotas(shelf, records)
    await begun(first, records, user, GB)
    record = await begun(first, records, user, GB)
    stale = (await records.change(record.job, lambda r: r.settle(JobState.VOID, now=NOON))).after
    await first.settle(stale)
    await first.book.tidy()
    await second.settle(stale)
    assert used(await second.book.read(user)) == (GB, GB, GB, 1)


async def test_many_brokers_that_settle_a_job_at_once_give_it_back_once(
    shelf: Shelf, records: Records, user: str
) -> None:
    brokers = [quotas(shelf, records) for _ in range(6)]
    await begun(brokers[0], records, user, GB)
    for _ in range(5):
        record = await begun(brokers[0], records, user, GB)
        ended = (await records.change(record.job, lambda r: r.settle(JobState.VOID, now=NOON))).after
        await asyncio.gather(*(broker.settle(ended) for broker in brokers))
        assert used(await brokers[0].book.read(user)) == (GB, GB, GB, 1)


async def test_a_broker_refuses_nothing_because_of_what_it_remembers(
    shelf: Shelf, records: Records, user: str
) -> None:
    """What one gave back is there for another, whatever that one saw last."""
    rules = read(b"[quota]\nopen_jobs = 1").quota
    one, two = (quotas(shelf, records, rules=rules) for _ in range(2))
    job = Ticket.new().job
    for _ in range(3):
        charge = await one.reserve(user, job, 5)
        with pytest.raises(Refusal, match="1 of 1 jobs are open"):
            await one.reserve(user, job, 5)
        await two.withdraw(user, job, charge)
        charge = await one.reserve(user, job, 5)
        await two.withdraw(user, job, charge)


# --- writes of which nobody knows what became


class Uncertain(Shelf):
    """Loses the answers to writes of a user's page , or the writes themselves."""

    def __init__(self, real: Shelf, lost: list[str]) -> None:
        super().__init__(real._client, real._kv)
        self._lost = lost

    async def write(self, key: str, value: bytes, revision: int) -> int | None:
        fate = self._lost.pop(0) if self._lost and key.startswith("u.") else ""
        if fate == "write":
            raise BusUnreachable("lost")
        written = await super().write(key, value, revision)
        if fate == "overwritten":  # somebody else is quicker than our next look
            await super().write(key, value, written or 0)
        if fate:
            raise BusUnreachable("lost")
        return written


@pytest.mark.parametrize(
    "lost", [["write"], ["answer"], ["overwritten"], ["answer", "write", "answer"], ["write"] * 3]
)
async def test_a_write_whose_answer_is_lost_counts_once(
    shelf: Shelf, records: Records, user: str, lost: list[str]
) -> None:
    broker = quotas(Uncertain(shelf, lost), records)
    charges = [await broker.reserve(user, Ticket.new().job, 10) for _ in range(4)]
    page = await broker.book.read(user)
    assert used(page) == (40, 40, 40, 4)
    assert set(page.moves) == {f"{charge.id}.0" for charge in charges}
    assert sum(share.tally.day_bytes for share in page.shares.values()) == 40
