"""What an owner may ask of the jobs themselves: which there are, pause, resume, cancel, remove, extend.

Whatever runs a job is told to look at its record (`bus.control_subject`). That word may be lost: it is a hint, and the
record rules.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

import msgspec
from msgspec.structs import replace
from nats.aio.client import Client
from nats.errors import Error as NatsError

from transfer import api, bus
from transfer.bech32m import ALPHABET
from transfer.broker import bounds
from transfer.broker.index import Index
from transfer.broker.job import JobRecord, admit_owner, not_found
from transfer.broker.records import Records
from transfer.broker.table import Table, verb
from transfer.ticket import JOB_SYMBOLS

log = logging.getLogger(__name__)

MAX_KEY, MAX_CHANGED = 64, 16
"""Letters of a request's key; keys that a record remembers."""


class OwnerVerbs:
    """One method a verb: the user who asks and the request in, the answer out.

    Every method is idempotent. Raises Refusal, or what records raise. Somebody else's job is not found.
    """

    def __init__(
        self,
        client: Client,
        records: Records,
        owe: Callable[[JobRecord], Awaitable[None]],
        *,
        unfinished_life: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """owe: told of records that may owe the store something. unfinished_life: seconds. clock: seconds since 1970."""
        self._client, self._records, self._owe = client, records, owe
        self._index = Index(records)
        self._unfinished_life, self._clock = unfinished_life, clock

    def table(self) -> Table:
        return {
            "list": verb(api.ListJobs, self.list),
            "pause": verb(api.Pause, self.pause),
            "resume": verb(api.Resume, self.resume),
            "cancel": verb(api.Cancel, self.cancel),
            "remove": verb(api.Remove, self.remove),
            "extend": verb(api.Extend, self.extend),
        }

    async def list(self, user: str, request: api.ListJobs) -> api.JobPage:
        for text in (request.begins, request.after):
            bounds.check(
                len(text) <= JOB_SYMBOLS and all(c in ALPHABET for c in text), "that begins no job id"
            )
        now, states = self._clock(), frozenset(request.states or api.JobState)
        lines = await self._index.of(user)
        jobs = [
            job
            for job, line in lines.items()
            if job > request.after
            and job.startswith(request.begins)
            and line.state in states
            and line.expires > now
        ]
        page = sorted(jobs)[: api.JOB_PAGE]
        return api.JobPage([lines[job] for job in page], more=len(jobs) > len(page))

    async def pause(self, user: str, request: api.Pause) -> api.Changed:
        return await self._pause(user, request.job, request.key, True)

    async def resume(self, user: str, request: api.Resume) -> api.Changed:
        return await self._pause(user, request.job, request.key, False)

    async def cancel(self, user: str, request: api.Cancel) -> api.Changed:
        await self._admit(user, request.job)
        return await self._change(request.job, lambda r, now: r.cancel(now=now))

    async def remove(self, user: str, request: api.Remove) -> api.Changed:
        bounds.check_job(request.job)
        record = await self._records.read(request.job)
        if (
            record is None or record.owner != user
        ):  # an expired one may be removed: that may be what we did before
            raise not_found()
        return await self._change(request.job, lambda r, now: r.remove(now=now))

    async def extend(self, user: str, request: api.Extend) -> api.Changed:
        bounds.check_expire(request.expire)
        bounds.check(len(request.key) <= MAX_KEY, "the key is too long")
        await self._admit(user, request.job)
        return await self._change(request.job, lambda r, now: r.extend(request.expire, now=now), request.key)

    async def _pause(self, user: str, job: str, key: str, paused: bool) -> api.Changed:
        bounds.check(len(key) <= MAX_KEY, "the key is too long")
        await self._admit(user, job)
        life = self._unfinished_life
        return await self._change(job, lambda r, now: r.pause(paused, now=now, life=life), key)

    async def _admit(self, user: str, job: str) -> None:
        bounds.check_job(job)
        admit_owner(await self._records.read(job), user, self._clock())

    async def _change(
        self, job: str, edit: Callable[[JobRecord, float], JobRecord], key: str = ""
    ) -> api.Changed:
        """Write it, tell whatever runs the job, then drop what it owes the store. key: of the request."""
        now = self._clock()
        change = await self._records.change(job, lambda record: _once(record, key, edit(record, now)))
        found = await self._records.find(job)
        if found is None:  # the sweeper was as quick
            return api.Changed(job, change.after.state, change.after.expires)
        record = found.record
        await self._nudge(record, found.revision)
        if record.settled:
            await self._owe(record)
        return api.Changed(record.job, record.state, record.expires)

    async def _nudge(self, record: JobRecord, revision: int) -> None:
        body = msgspec.json.encode(api.Nudge(state=record.state, revision=revision))
        try:
            await self._client.publish(bus.control_subject(record.owner, record.job), body)
        except (NatsError, OSError) as error:
            log.warning("job %s: its sender could not be told: %s", record.job, type(error).__name__)


def _once(record: JobRecord, key: str, after: JobRecord) -> JobRecord:
    """A copy of a request that comes late must not undo what was asked since."""
    if not key:
        return after
    if key in record.changed:
        return record
    return replace(after, changed=(*record.changed, key)[-MAX_CHANGED:])
