"""A user's jobs, from whatever host: which there are, how they stand, and what may be done to them."""

from __future__ import annotations

import builtins
import contextlib
from collections.abc import AsyncIterator, Collection, Sequence

from transfer import api, config
from transfer.bech32m import ALPHABET
from transfer.broker_client import FIRST_CONTACT, BrokerClient, Conflict, Patience, connected
from transfer.errors import JobGone, UsageError, XferError
from transfer.ledger import Ledger
from transfer.ticket import JOB_SYMBOLS, is_job_id

_SHOWN = 4
"""Of the jobs that an ambiguous name may mean."""


@contextlib.asynccontextmanager
async def jobs(context: config.Context | None = None) -> AsyncIterator[Jobs]:
    """The jobs of the user that a context names, over one connection: `async with transfer.jobs() as mine`.

    Raises XferError as `config.load` and `bus.connect` do.
    """
    where = context or config.load()
    async with connected(where, "xfer", Patience(FIRST_CONTACT)) as (_client, broker):
        yield Jobs(broker)


def names() -> dict[str, str]:
    """By job: what was sent from this host, for people, a year back; empty if its ledger cannot be read."""
    path = config.state_dir() / "ledger.db"
    if not path.exists():
        return {}
    try:
        with contextlib.closing(Ledger(path)) as ledger:
            return ledger.labels()
    except XferError:  # the jobs are told without
        return {}


def only(start: str, ids: Collection[str]) -> str:
    """The one id that begins so. ids: all that do, at least one. Raises UsageError if there are several."""
    first, *others = sorted(set(ids))
    if others:
        shown = ", ".join([first, *others][:_SHOWN]) + (", …" if len(others) >= _SHOWN else "")
        raise UsageError(f"{start!r} may be {shown}", hint="write a longer part of the one you mean")
    return first


class Jobs:
    """Any `job` may be the beginning of a job's id, if no other of the user's begins so.

    Raises (any call): JobGone for what is not there or not ours, UsageError for what cannot be done to it, Temporary.
    """

    def __init__(self, broker: BrokerClient) -> None:
        self._broker = broker

    async def list(self, states: Sequence[api.JobState] = (), begins: str = "") -> builtins.list[api.JobLine]:
        """Those in these states (empty: in any) whose ids begin so; the oldest first."""
        found: builtins.list[api.JobLine] = []
        more = True
        while more:
            after = found[-1].job if found else ""
            page = await self._broker.list_jobs(api.ListJobs(states=[*states], begins=begins, after=after))
            found += page.jobs
            more = page.more
        return sorted(found, key=lambda line: (line.created, line.job))

    async def find(self, job: str) -> str:
        """The whole id."""
        if is_job_id(job):
            return job
        found = []
        if 0 < len(job) < JOB_SYMBOLS and all(c in ALPHABET for c in job):
            found = [line.job for line in await self.list(begins=job)]
        if not found:
            raise JobGone(f"no job of yours is called {job!r}", hint="see `xfer ls --all`")
        return only(job, found)

    async def status(self, job: str) -> tuple[str, api.JobStatus]:
        """Its id, and how it stands, the bytes that the store has of it included."""
        whole = await self.find(job)
        return whole, await self._broker.status(whole, full=True)

    async def pause(self, job: str) -> api.Changed:
        """Have its sender wait, wherever it runs. What is under way is stored; nothing more is begun."""
        return await self._change("pause", api.Pause(job=await self.find(job)))

    async def resume(self, job: str) -> api.Changed:
        """Have a paused one go on where it runs."""
        return await self._change("resume", api.Resume(job=await self.find(job)))

    async def cancel(self, job: str) -> api.Changed:
        """Void: its sender ends, its objects go, whoever holds its ticket is told."""
        return await self._change("cancel", api.Cancel(job=await self.find(job)))

    async def remove(self, job: str) -> api.Changed:
        """Forget it, whatever state it is in; its objects go."""
        return await self._change("remove", api.Remove(job=await self.find(job)))

    async def extend(self, job: str, expire: float) -> api.Changed:
        """A new expiry. expire: seconds, of a stored job from now on, of an unfinished one once it is stored."""
        return await self._change("extend", api.Extend(job=await self.find(job), expire=expire))

    async def _change(self, verb: str, request: api.Request) -> api.Changed:
        try:
            return await self._broker.change(verb, request)
        except Conflict as conflict:
            raise UsageError(conflict.what, hint="`xfer status JOB` shows how it stands") from None
