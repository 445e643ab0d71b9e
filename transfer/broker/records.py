"""Job records in a JetStream KV bucket: compare-and-set, so that any number of brokers may write.

`j.<job>` holds the record, `s.<job>.<page>` the references of 64 segments each, so that a job of
thousands of segments does not rewrite a big value for every one of them. `realm` is the name of this bucket,
which stands in the keys of its jobs' objects.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import NamedTuple

import msgspec
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.kv import KV_OP

from transfer.api import ErrorCode
from transfer.broker.job import RECORD_VERSION, WINDOW, JobRecord, Refusal, not_found
from transfer.broker.kv import Bucket, Entry, pause, reaching
from transfer.errors import BusUnreachable, UnsupportedVersion
from transfer.model import SegmentRef

log = logging.getLogger(__name__)

BUCKET = "xfer_jobs"
REALM = "realm"
REALM_BYTES = 4
PAGE = 64
ATTEMPTS = 12

_record = msgspec.json.Decoder(JobRecord)
_page = msgspec.json.Decoder(dict[int, SegmentRef])


class Found(NamedTuple):
    """A record and the revision that a change must name."""

    record: JobRecord
    revision: int


class Change(NamedTuple):
    """A record as it was and as it is."""

    before: JobRecord
    after: JobRecord


class Records:
    """Raises (any call): BusUnreachable. Every call may be made many times at once.

    realm: letters and digits, made with the bucket and never changed.
    """

    def __init__(self, jetstream: JetStreamContext, kv: Bucket, realm: str) -> None:
        self._jetstream, self._kv, self.realm = jetstream, kv, realm
        self._unread: set[str] = set()

    @classmethod
    async def attach(cls, client: Client, replicas: int = 1) -> Records:
        """Bind to the bucket; make it on disk, on so many servers, if it is not there. Raises UsageError: no cluster."""
        with reaching("job records"):
            kv = await Bucket.attach(
                client, BUCKET, "xfer job records", replicas, max_msgs_per_subject=1, allow_msg_ttl=True
            )
            return cls(client.jetstream(), kv, await _realm(kv))

    async def create(self, record: JobRecord) -> bool:
        """False if there is one of that job already."""
        with reaching("job records"):
            return await self._kv.create(_job_key(record.job), msgspec.json.encode(record)) is not None

    async def find(self, job: str) -> Found | None:
        with reaching("job records"):
            entry = await self._get(_job_key(job))
        return None if entry is None else Found(_read(entry.value), entry.revision)

    async def read(self, job: str) -> JobRecord | None:
        found = await self.find(job)
        return found and found.record

    async def change(self, job: str, edit: Callable[[JobRecord], JobRecord]) -> Change:
        """Replace a record by what `edit` makes of it; once more when another broker was quicker.

        edit: pure; what it raises goes to the caller; an equal record is not written.
        Raises Refusal: not found, or busy after ATTEMPTS.
        """
        for attempt in range(ATTEMPTS):
            found = await self.find(job)
            if found is None:
                raise not_found()
            after = edit(found.record)
            if after == found.record or await self._swap(
                _job_key(job), msgspec.json.encode(after), found.revision
            ):
                return Change(found.record, after)
            await pause(attempt)
        raise _busy()

    async def put_ref(self, job: str, ref: SegmentRef, upload: str) -> None:
        """Remember a segment that is whole at the store, before its record counts it; one of the same number is replaced.

        Only while the record has that upload open, as it is when the page's revision is known; else nothing is written:
        a request that lingered would put back what a later upload has replaced. What no record comes to count is read by
        nobody, and goes with the job. Raises Refusal: not found, or busy after ATTEMPTS.
        """
        key = _page_key(job, ref.number // PAGE)
        for attempt in range(ATTEMPTS):
            with reaching("job records"):
                entry = await self._get(key)
            refs = {} if entry is None else _page.decode(entry.value or b"{}")
            if refs.get(ref.number) == ref:
                return
            record = await self.read(job)
            if record is None:
                raise not_found()
            if record.uploads.get(ref.number) != upload:
                return
            body = msgspec.json.encode({**refs, ref.number: ref})
            if entry is not None:
                done = await self._swap(key, body, entry.revision)
            else:
                with reaching("job records"):
                    done = await self._kv.create(key, body) is not None
            if done:
                return
            await pause(attempt)
        raise _busy()

    async def forget_ref(self, job: str, number: int) -> None:
        """Of a job that is gone: drop the page that was made for it at that very moment."""
        if await self.read(job) is None:
            with reaching("job records"):
                await self._kv.delete(_page_key(job, number // PAGE))

    async def refs(self, job: str, start: int, end: int) -> list[SegmentRef]:
        """References of the segments from `start` to before `end`, as far as they are there without a gap."""
        if end <= start:
            return []
        pages = range(start // PAGE, (end - 1) // PAGE + 1)
        with reaching("job records"):
            entries = await asyncio.gather(*(self._get(_page_key(job, page)) for page in pages))
        known: dict[int, SegmentRef] = {}
        for entry in entries:
            if entry is not None:
                known.update(_page.decode(entry.value or b"{}"))
        found = []
        for number in range(start, end):
            if number not in known:
                break
            found.append(known[number])
        return found

    async def check(self) -> None:
        """Raises BusUnreachable unless these are still the records of our realm: without that, no job is not no owner."""
        with reaching("job records"):
            entry = await self._get(REALM)
        if entry is None or entry.value != self.realm.encode():
            raise BusUnreachable("the job records are not those that this broker began with; restart it")

    async def all(self) -> AsyncGenerator[Found, None]:
        """Every job there is, at the revision it was read; one that cannot be read is left out, and logged once.

        One that is changed meanwhile may come twice. Not KeyValue.watch: it asks how much there is when some of it may
        be on its way already, and ends at once where that was all.
        """
        async with aclosing(self._jobs(None)) as jobs:
            async for _, record, revision in jobs:
                if record is not None:
                    yield Found(record, revision)

    async def changes(self, after: int) -> AsyncGenerator[tuple[str, JobRecord | None, int], None]:
        """What is newer than that revision, the oldest first: job, record and revision; no record if it was dropped
        less than MARKER_LIFE ago, or cannot be read."""
        async with aclosing(self._jobs(after + 1)) as jobs:
            async for job in jobs:
                yield job

    async def last_change(self) -> int:
        """The revision of the last one."""
        with reaching("job records"):
            return (await self._jetstream.stream_info(f"KV_{BUCKET}")).state.last_seq

    async def _jobs(self, start: int | None) -> AsyncGenerator[tuple[str, JobRecord | None, int], None]:
        with reaching("job records"):
            async with aclosing(self._kv.newest("j.*", start)) as messages:
                async for message in messages:
                    key = message.subject.rsplit(".", 1)[1]
                    record: JobRecord | None = None
                    try:
                        if KV_OP not in (message.headers or {}):  # those tell of deletions
                            record = _read(message.data)
                    except UnsupportedVersion as error:
                        if key not in self._unread:
                            log.warning("job %s: %s", key, error.what)
                        self._unread.add(key)
                    yield key, record, message.metadata.sequence.stream

    async def drop(self, found: Found) -> bool:
        """Forget a job. False if it was changed meanwhile: then it stays."""
        job, record = found.record.job, found.record
        with reaching("job records"):
            for page in range((record.segments + WINDOW) // PAGE + 1):
                if await self._get(_page_key(job, page)) is not None:
                    await self._kv.delete(_page_key(job, page))
            return await self._kv.delete(_job_key(job), found.revision)

    async def _get(self, key: str) -> Entry | None:
        """None where there is no value, or not any more."""
        entry = await self._kv.get(key)
        return None if entry is None or entry.value is None else entry

    async def _swap(self, key: str, body: bytes, revision: int) -> bool:
        with reaching("job records"):
            return await self._kv.update(key, body, revision) is not None


async def _realm(kv: Bucket) -> str:
    """The bucket's name for itself; whoever made it chose it."""
    await kv.create(REALM, secrets.token_hex(REALM_BYTES).encode())
    entry = await kv.get(REALM)
    return ((entry and entry.value) or b"").decode()


def _read(value: bytes | None) -> JobRecord:
    try:
        record = _record.decode(value or b"")
    except msgspec.MsgspecError:
        raise UnsupportedVersion("a job record was written by another version of the broker") from None
    if record.v != RECORD_VERSION:
        raise UnsupportedVersion("a job record was written by a newer broker")
    return record


def _job_key(job: str) -> str:
    return f"j.{job}"


def _page_key(job: str, page: int) -> str:
    return f"s.{job}.{page}"


def _busy() -> Refusal:
    return Refusal(ErrorCode.BUSY, "too many change that job at once", retry_after=1.0)
