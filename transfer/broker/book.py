"""The quota's book: a page a user in a JetStream KV bucket, changed by compare-and-set, many changes in one write.

`u.<user>` holds a page (`account.Account`), `total` what brokers have been lent of what is for all users together
(`borrowing`). A step of a job's charge is on the page first and on the job's record next. What is on the page is never
decided by an older state of the record: each record is read when the page's revision is known, and that revision must
still hold when the page is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from transfer.broker.account import Account, Draft, Share
from transfer.broker.grouped import Asked, Batch, Grouped
from transfer.broker.job import JobRecord
from transfer.broker.kv import Bucket
from transfer.broker.records import Records
from transfer.broker.tally import Tally
from transfer.errors import BusUnreachable

BUCKET = "xfer_quota"
MOST = 256
"""Changes in one write of a page."""
PAGE, TOTAL = "u.", "total"
TOLD = "xfer.pages"
PAGES = 1000
"""Pages kept in memory."""
NEIGHBOURS = 3
"""Brokers that hear of each write of a page that they have written: those that did so last."""
RETRY = 0.1
"""Seconds between two tries to learn what became of a write."""


class Operation(Protocol):
    """What is to be done to a page. looks_at: the job whose record it needs, None if it needs none."""

    @property
    def looks_at(self) -> str | None: ...

    def apply(self, draft: Draft, record: JobRecord | None) -> Any: ...


class Lender(Protocol):
    """Whose share of a page our changes are."""

    @property
    def name(self) -> str: ...

    @property
    def gone(self) -> frozenset[str]:
        """Brokers whose shares have been counted; they may be forgotten."""
        ...

    async def valid(self) -> None:
        """Returns while, or as soon as, this broker may write."""

    def counted(self, out: Tally, into: Tally) -> None:
        """This was taken off a page, and put on it."""


class Shelf:
    """The bucket. Raises (any call): BusUnreachable.

    Brokers that share a page tell each other what they wrote there, so that the next write of each names the revision
    that holds. What is told is a hint: compare-and-set decides. Lost, late and doubled ones do no harm.
    """

    def __init__(self, client: Client, kv: Bucket) -> None:
        self._client, self._kv = client, kv
        self._jetstream = client.jetstream()

    @classmethod
    async def attach(cls, client: Client, replicas: int = 1) -> Shelf:
        """Bind to the bucket; make it on disk if it is not there."""
        try:
            kv = await Bucket.attach(client, BUCKET, "what xfer users have used", replicas)
        except (NatsError, OSError) as error:
            raise _unreachable(error) from None
        return cls(client, kv)

    async def read(self, key: str) -> tuple[bytes | None, int]:
        """The value and its revision; None and 0 if there is none."""
        try:
            entry = await self._kv.get(key)
        except (NatsError, OSError) as error:
            raise _unreachable(error) from None
        return (None, 0) if entry is None else (entry.value, entry.revision)

    async def write(self, key: str, value: bytes, revision: int) -> int | None:
        """The new revision; None if that one is not the newest any more. An error leaves open whether it was written."""
        try:
            return await self._kv.update(key, value, revision)
        except (NatsError, OSError) as error:
            raise _unreachable(error) from None

    async def tell(self, brokers: Iterable[str], user: str, page: bytes, revision: int) -> None:
        """What this user's page is now, as a courtesy: it may be lost."""
        with contextlib.suppress(NatsError, OSError):
            for broker in brokers:
                await self._client.publish(f"{TOLD}.{broker}.{user}.{revision}", page)

    async def hear(
        self, broker: str, told: Callable[[str, bytes, int], None]
    ) -> Callable[[], Awaitable[None]]:
        """What others tell that broker: the user, the page, its revision. Returns how to end it."""

        async def heard(message: Msg) -> None:
            *_, user, revision = message.subject.split(".")
            told(user, message.data, int(revision))

        try:
            subscription = await self._client.subscribe(f"{TOLD}.{broker}.*.*", cb=heard)
        except (NatsError, OSError) as error:
            raise _unreachable(error) from None

        async def end() -> None:
            with contextlib.suppress(NatsError, OSError):
                await subscription.unsubscribe()

        return end

    async def users(self) -> list[str]:
        """Who has a page."""
        subjects = f"$KV.{BUCKET}.{PAGE}"
        try:
            info = await self._jetstream.stream_info(f"KV_{BUCKET}", subjects_filter=f"{subjects}*")
        except (NatsError, OSError) as error:
            raise _unreachable(error) from None
        return sorted(subject.removeprefix(subjects) for subject in info.state.subjects or ())


class Book:
    """Changes of pages, many at once. clock: seconds since 1970."""

    def __init__(
        self, shelf: Shelf, records: Records, lender: Lender, clock: Callable[[], float] = time.time
    ) -> None:
        self._shelf, self._records, self._lender, self._clock = shelf, records, lender, clock
        self._pages: dict[str, tuple[Account | bytes, int]] = {}
        self._named = ""
        self._deaf: Callable[[], Awaitable[None]] | None = None
        self._naming = asyncio.Lock()
        self._followed: dict[str, set[str]] = {}
        self._grouped: Grouped[Operation] = Grouped(self._commit, most=MOST)

    async def do(self, user: str, operation: Operation, at_end: Callable[[], None] | None = None) -> Any:
        """What the operation gives once it is on the page. Raises what it raises, and BusUnreachable."""
        return await self._grouped.ask(user, operation, at_end)

    def followed(self, user: str, key: str) -> None:
        """The job's record has taken that step: the page may forget it, at its next change or `tidy`."""
        self._followed.setdefault(user, set()).add(key)

    async def tidy(self) -> None:
        """Forget the steps that records have followed."""
        for user in list(self._followed):
            await self.do(user, _Tidy())

    async def read(self, user: str) -> Account:
        """A page as it is."""
        body, _ = await self._shelf.read(PAGE + user)
        return _page.decode(body) if body else Account()

    async def close(self) -> None:
        """End what is under way."""
        await self._grouped.idle()
        if self._deaf is not None:
            await self._deaf()

    async def _listen(self) -> None:
        """To those that share pages with us, under the name that we have now."""
        if self._lender.name == self._named:
            return
        async with self._naming:
            if (name := self._lender.name) == self._named:
                return
            before, self._named, self._deaf = self._deaf, "", None
            if before is not None:
                await before()
            self._deaf = await self._shelf.hear(name, self._remember)
            self._named = name

    def _remember(self, user: str, page: Account | bytes, revision: int) -> None:
        """The newest that we know of a page."""
        if (known := self._pages.get(user)) is not None and known[1] > revision:
            return
        if len(self._pages) >= PAGES and known is None:
            self._pages.pop(next(iter(self._pages)))
        self._pages[user] = page, revision

    async def _commit(self, user: str, batch: Batch[Operation]) -> None:
        so_far = _SoFar()
        for attempt in itertools.count():
            try:
                if await self._attempt(user, batch.items, so_far):
                    return
            except BusUnreachable:
                if not so_far.tried:
                    raise  # nothing was written; else it must be known what became of it
                await asyncio.sleep(RETRY)
            await asyncio.sleep(random.uniform(0, min(0.05, 0.001 * 2 ** min(attempt, 6))))
            batch.grow()

    async def _attempt(self, user: str, batch: list[Asked[Operation]], so_far: _SoFar) -> bool:
        """One compare-and-set; whether all of the batch have their outcomes."""
        await self._lender.valid()
        await self._listen()
        remembered = self._pages.pop(user, None)
        if so_far.must_look:
            remembered, so_far.must_look = None, False
        page, revision = _read(remembered) if remembered else await self._current(user)
        tried = so_far.tried
        landed = next((tried[s.tag] for s in page.shares.values() if s.tag in tried), None)
        if landed is not None:
            tried.clear()  # what they asked for is settled, and the others name revisions that are over
            self._conclude(user, landed, page, revision)
            return len(landed.batch) == len(batch)
        current = await self._try(user, batch, page)
        if not current.draft.changed:
            if remembered is not None:  # no write proves that the page is still as we remember it
                so_far.must_look = True
                return False
            self._conclude(user, current, page, revision)
            return True
        tried[self._sign(current.draft)] = current
        body = _encoder.encode(current.draft.account)
        written = await self._shelf.write(PAGE + user, body, revision)
        if written is None:
            return False
        self._conclude(user, current, current.draft.account, written)
        if others := [name for name in current.draft.account.shares if name != self._lender.name]:
            await self._shelf.tell(others[-NEIGHBOURS:], user, body, written)
        return True

    async def _current(self, user: str) -> tuple[Account, int]:
        """The page and its revision."""
        body, revision = await self._shelf.read(PAGE + user)
        return (_page.decode(body) if body else Account()), revision

    async def _try(self, user: str, batch: list[Asked[Operation]], page: Account) -> _Try:
        records = await self._records_of(batch)
        draft = Draft(Account(page.used, {**page.moves}, {**page.shares}), self._clock())
        done = {*self._followed.get(user, ())}
        for key in done:
            draft.forget(key)
        items = zip(batch, records, strict=True)
        return _Try(batch, draft, [_outcome(asked.item, draft, record) for asked, record in items], done)

    def _sign(self, draft: Draft) -> str:
        """Our share of the page, with a tag that tells this write from all others."""
        shares, name = draft.account.shares, self._lender.name
        for broker in self._lender.gone & shares.keys():
            del shares[broker]
        before = shares.pop(name).tally if name in shares else Tally()
        tag = secrets.token_hex(4)
        shares[name] = Share(tag, before.minus(draft.out).plus(draft.into))  # the last: who wrote last
        return tag

    def _conclude(self, user: str, done: _Try, page: Account, revision: int) -> None:
        if done.draft.changed:
            self._lender.counted(done.draft.out, done.draft.into)
        left = self._followed.pop(user, set()) - done.forgotten
        if left:
            self._followed[user] = left
        self._remember(user, page, revision)
        for asked, outcome in zip(done.batch, done.outcomes, strict=True):
            asked.end(outcome)

    async def _records_of(self, batch: list[Asked[Operation]]) -> list[JobRecord | None]:
        looked = [asked.item.looks_at for asked in batch]
        if not any(looked):
            return [None] * len(looked)
        jobs = sorted({job for job in looked if job})
        found = await asyncio.gather(*map(self._records.read, jobs))
        known = dict(zip(jobs, found, strict=True))
        return [known[job] if job else None for job in looked]


class _Try(NamedTuple):
    """What a write of a page would make of it, what each operation gives then, and which steps it forgets."""

    batch: list[Asked[Operation]]
    draft: Draft
    outcomes: list[Any]
    forgotten: set[str]


@dataclass
class _SoFar:
    """What came of a batch's attempts. tried: by tag, writes that may have come true. must_look: at the page itself."""

    tried: dict[str, _Try] = field(default_factory=dict)
    must_look: bool = False


class _Tidy:
    looks_at = None

    def apply(self, _draft: Draft, _record: JobRecord | None) -> None:
        return None


_page = msgspec.json.Decoder(Account)
_encoder = msgspec.json.Encoder()


def _read(remembered: tuple[Account | bytes, int]) -> tuple[Account, int]:
    page, revision = remembered
    return (_page.decode(page) if isinstance(page, bytes) else page), revision


def _outcome(operation: Operation, draft: Draft, record: JobRecord | None) -> Any:
    try:
        return operation.apply(draft, record)
    except Exception as refused:
        return refused


def _unreachable(error: BaseException) -> BusUnreachable:
    return BusUnreachable(f"the broker cannot reach the quota's book ({type(error).__name__})")
