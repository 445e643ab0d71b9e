"""Which job a send works on: the unfinished one of its source, one that was begun elsewhere, or a new one."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from transfer import api
from transfer.adopted import compare, manifest_of
from transfer.broker_client import BrokerClient, Conflict, JobPaused
from transfer.content import Content
from transfer.errors import (
    CANCELLED,
    JobCancelled,
    JobGone,
    Locked,
    NotAllowed,
    SourceChanged,
    UsageError,
    XferError,
)
from transfer.ledger import JobRow, Ledger, PartRow, SourceRow
from transfer.lock import FileLock
from transfer.meter import Meter
from transfer.seal import Sealer
from transfer.sent import SendAgain, SentJob, ask, lock_path
from transfer.snapshot import difference, only_touched, pack
from transfer.source import Tree
from transfer.stored import StoreReader
from transfer.ticket import Ticket

_ANEW = "send it as a new transfer"
_GIVE_UP = "pass --no-resume to give that up and send what is there now"
OnPause = Literal["wait", "lift", "refuse"]
"""What to do about a job that its owner has paused."""


async def open_job(
    broker: BrokerClient,
    ledger: Ledger,
    locks: Path,
    material: Content,
    again: SendAgain,
    meter: Meter,
    *,
    ticket: Ticket | None,
    resume: bool,
    on_pause: OnPause = "wait",
    new: Ticket | None = None,
) -> SentJob:
    """The job to work on; it is locked for us, and at the broker.

    Args:
        material: gets the manifest that an earlier run sent, if there is one.
        again: what was asked for, to be kept in the ledger.
        ticket: of the job to continue, wherever it was begun; then no other will do.
        resume: carry on with the unfinished job of this source, if nobody works on it.
        on_pause: what to do about a job that is paused.
        new: begin this one, whatever else is unfinished.
    Raises:
        SourceChanged: a part of what was there before is stored, or what is stored of `ticket` is something else.
        JobGone: the ticket's job. NotAllowed: it is another user's. Locked: another run works on it.
        JobPaused: with `on_pause` being `refuse`.
    """
    if material.tree is None:
        if ticket is not None:
            raise UsageError(
                "a stream cannot be continued", hint="send it as a new transfer, without a ticket"
            )
        ticket = await _create(broker, material, again, new)
        with contextlib.suppress(XferError):  # only `xfer ls` would miss it
            ledger.keep_label(ticket.job, material.label)
        return SentJob(ticket, ledger, None, None)
    opening = _Opening(broker, ledger, locks, material, material.tree, again, meter, on_pause)
    if new is not None:
        return await opening.new(new)
    if ticket is not None:
        return await opening.continued(ticket)
    if resume and (found := await opening.found()) is not None:
        return found
    await opening.clear(refuse=resume)
    return await opening.new()


async def _create(
    broker: BrokerClient, material: Content, again: SendAgain, ticket: Ticket | None = None
) -> Ticket:
    ticket = ticket or Ticket.new()
    await broker.create(
        api.Create(
            job=ticket.job,
            token_hash=Sealer(ticket).token_hash(),
            size=material.manifest.total,
            expire=again.expire,
            fetches=again.fetches,
        )
    )
    return ticket


def _given_up(ticket: Ticket) -> str:
    """How to give up a job that was begun here with other files."""
    return f"send what is there now with --no-resume, which gives this up, or end it with `xfer cancel {ticket.job}`"


class _Opening:
    """The search for the job of one known source, in the ledger and at the broker."""

    def __init__(
        self,
        broker: BrokerClient,
        ledger: Ledger,
        locks: Path,
        material: Content,
        tree: Tree,
        again: SendAgain,
        meter: Meter,
        on_pause: OnPause,
    ) -> None:
        self._broker, self._ledger, self._locks, self._on_pause = broker, ledger, locks, on_pause
        self._material, self._tree, self._again, self._meter = material, tree, again, meter
        self._identity = tree.identity()
        self._source = SourceRow(again.place(), pack(tree))

    async def new(self, ticket: Ticket | None = None) -> SentJob:
        ticket = await _create(self._broker, self._material, self._again, ticket)
        lock = self._lock(ticket.job)
        return SentJob(ticket, self._ledger, self._add(ticket), lock)

    async def found(self) -> SentJob | None:
        """The newest unfinished job of this very source that still lives and that nobody works on."""
        for row in self._ledger.select("send", key=self._identity):
            if self._same_servers(row) and (lock := self._free(row.job)) is not None:
                with contextlib.ExitStack() as undo:
                    undo.enter_context(lock)
                    job = await self._carry_on(row, lock)
                    if isinstance(job, SentJob):
                        undo.pop_all()
                        return job
        return None

    async def clear(self, *, refuse: bool) -> None:
        """See to the unfinished jobs of these paths that nobody works on, so that nothing is left without an owner.

        refuse: raise SourceChanged if one has begun to store; without that, and where it has not, it is void.
        """
        rows = self._ledger.select("send", place=self._source.place)
        if not refuse:
            rows = list({*rows, *self._ledger.select("send", key=self._identity)})
        for row in rows:
            if not self._same_servers(row) or (refuse and row.key == self._identity):
                continue
            if (lock := self._free(row.job)) is not None:
                with lock:
                    await self._clear(row, refuse)

    async def continued(self, ticket: Ticket) -> SentJob:
        rows = [row for row in self._ledger.select("send", job=ticket.job) if row.secret == ticket.secret]
        own = next((row for row in rows if row.key == self._identity), None)
        with contextlib.ExitStack() as undo:
            lock = undo.enter_context(self._lock(ticket.job))
            if own is None:
                job = await self._adopt(ticket, rows, lock)
            else:
                found = await self._carry_on(own, lock)
                if isinstance(found, JobGone):
                    raise found
                job = found
            undo.pop_all()
        return job

    async def _carry_on(self, row: JobRow, lock: FileLock) -> SentJob | JobGone:
        """How it is gone, if it is; then the ledger forgets it."""
        job = SentJob(Ticket(row.job, row.secret), self._ledger, row, lock)
        try:
            status = await self._status(row.job)
            if status.state is not api.JobState.VOID:
                await job.recall(self._broker, status)
                if blocks := self._ledger.blocks(row):
                    self._material.manifest = manifest_of(self._material.manifest, blocks)
                self._ledger.set_state(row, self._again.pack())
                job.found = True
                return job
            gone = (
                JobCancelled(CANCELLED) if status.cancelled else JobGone("that transfer is void", hint=_ANEW)
            )
        except JobGone as lost:
            if not self._same_servers(row):  # who knows what those know
                raise
            gone = JobGone(f"that transfer cannot be gone on with: {lost.what}", hint=_ANEW)
        self._ledger.end(row)
        return gone

    async def _adopt(self, ticket: Ticket, rows: list[JobRow], lock: FileLock) -> SentJob:
        """Go on with what was begun with other files, if these are the same. rows: what is known of it here."""
        sealer = Sealer(ticket)
        try:
            owner = (await self._broker.open(sealer)).owner
            if owner != self._broker.user:
                raise NotAllowed(
                    f"that transfer is of user {owner}, and this is user {self._broker.user}",
                    hint="go on as that user, or send it as a new transfer",
                )
            status = await self._status(ticket.job)
        except JobGone as gone:
            raise JobGone(gone.what, hint=_ANEW) from None
        if status.state is api.JobState.VOID:
            raise JobGone("that transfer is void: its sender ended it", hint=_ANEW)
        if status.state is api.JobState.DELIVERED:  # nothing is left to compare these files with
            raise JobGone("that transfer has been delivered, and is not kept any longer", hint=_ANEW)
        found = await ask(self._broker, sealer, status)
        blocks: dict[int, bytes] = {}
        manifest = self._material.manifest
        if found.learnt:
            with contextlib.closing(StoreReader(self._broker, sealer)) as store:
                blocks = await store.manifest((part.segment, part.frames) for part in found.learnt)
            try:
                manifest = manifest_of(manifest, blocks)
                await compare(self._tree, manifest, found.digests, self._meter)
            except SourceChanged as changed:
                if rows:
                    changed.next_step = _given_up(ticket)
                raise
        elif rows and status.state.unfinished and not self._again.room:
            # A peer may have a part of what was there before, and nothing tells whether this is the same.
            raise SourceChanged(
                f"{self._change(rows[0])} since this transfer was begun", hint=_given_up(ticket)
            )
        begun = min((old.created for old in rows), default=None)
        row = self._add(ticket, blocks, found.learnt, begun)
        for old in rows:
            self._ledger.end(old)
        self._material.manifest = manifest
        job = SentJob(ticket, self._ledger, row, lock)
        await job.take(self._broker, found)
        if found.learnt:
            self._meter.notice("what is stored of this transfer is the same as here, and is not sent again")
        return job

    async def _clear(self, row: JobRow, refuse: bool) -> None:
        try:
            state = (await self._broker.status(row.job)).state
        except JobGone:
            state = api.JobState.VOID
        change = self._change(row)
        if state.unfinished:
            if refuse and self._ledger.segments(row):
                raise SourceChanged(
                    f"{change} since an earlier run stored a part of this",
                    hint=self._ways_on(row),
                )
            with contextlib.suppress(Conflict, JobGone):  # it ended in this very moment
                await self._broker.status(row.job, take_over=True)  # who else goes on with it may not end it
                await self._broker.finish(row.job, api.JobState.VOID)
            self._meter.notice(
                f"{change} since an earlier run, which stored nothing: that transfer is void, this is a new one"
                if refuse
                else "an unfinished transfer of the same paths is void now; this is a new one"
            )
        self._ledger.end(row)

    async def _status(self, job: str) -> api.JobStatus:
        """Of a job that we are about to go on with. Raises JobPaused."""
        status = await self._broker.status(job, take_over=True)
        if status.state is api.JobState.PAUSED and self._on_pause == "lift":
            await self._broker.change("resume", api.Resume(job=job))
            return await self._broker.status(job)
        if status.state is api.JobState.PAUSED and self._on_pause == "refuse":
            raise JobPaused(
                "this transfer is paused by its owner", hint=f"`xfer resume {job}` goes on with it"
            )
        return status

    def _add(
        self,
        ticket: Ticket,
        blocks: Mapping[int, bytes] | None = None,
        stored: Sequence[PartRow] = (),
        begun: float | None = None,
    ) -> JobRow:
        return self._ledger.add(
            "send",
            ticket.job,
            self._identity,
            ticket.secret,
            label=self._material.label,
            state=self._again.pack(),
            source=self._source,
            blocks=blocks,
            stored=stored,
            created=begun,
        )

    def _ways_on(self, row: JobRow) -> str:
        """What to do about an unfinished job of files that have changed."""
        source = self._ledger.source(row)
        if source is None or not only_touched(source.facts, self._tree):
            return _GIVE_UP
        return f"`xfer resume {row.job}` compares the bytes and goes on if they are the same; else {_GIVE_UP}"

    def _change(self, row: JobRow) -> str:
        source = self._ledger.source(row)
        return "what is to be sent has changed" if source is None else difference(source.facts, self._tree)

    def _same_servers(self, row: JobRow) -> bool:
        """Only those that the job is at can tell what has become of it."""
        asked = SendAgain.unpack(self._ledger.state(row))
        return asked is None or asked.context == self._again.context

    def _lock(self, job: str) -> FileLock:
        """Raises Locked."""
        return FileLock(lock_path(self._locks, job), "sends this job")

    def _free(self, job: str) -> FileLock | None:
        """None while another run works on it."""
        try:
            return self._lock(job)
        except Locked:
            return None
