"""Idempotency keys: however often a send is asked for with one key, it is one job, and nothing is sent twice.

What a second call with the key finds, and does:

- nothing: it begins the job, and this host's ledger knows the key before the broker knows the job
- an unfinished job: it goes on with it, as `ticket` would, also after a kill -9. A stream cannot be gone on with: its
  job is void then, and this is a new one
- a run that works on it: Locked
- a job that ended well: it says so, with the ticket and the summary of that run, and sends nothing. As long as the job
  is stored or was received; one that expired before anybody came begins anew. A pipe is read to its end all the same,
  so that whoever writes to it ends well, and must bring the same bytes
- one that failed for good: it begins anew. One that its owner cancelled: JobCancelled
- another source than the key was first used with: UsageError. Files are the same as for any resume; of a stream that
  did not end only the name is compared, of a command its text. Other options are those of the first call, or do not
  matter

The key belongs to a user of a context, and to the room that it is posted to; it is known on the host that used it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Protocol

import msgspec

from transfer import api
from transfer.broker_client import BrokerClient, Conflict
from transfer.codec import digest_of
from transfer.content import Content
from transfer.errors import CANCELLED, JobCancelled, JobGone, SourceChanged, UsageError
from transfer.events import Listener, Notice, Stored, Summary, TicketReady
from transfer.ledger import KeyRow, Ledger
from transfer.lock import FileLock
from transfer.seal import Sealer
from transfer.sent import Ended, SendAgain, SentJob, Settled
from transfer.ticket import Ticket

MAX_KEY = 200
"""Characters of a key."""
_ANOTHER = "use another idempotency key"


class Opening(Protocol):
    """`open_job`, with all but these."""

    async def __call__(
        self, *, ticket: Ticket | None, resume: bool, new: Ticket | None = None
    ) -> SentJob: ...


def check_key(key: str, *, alone: bool) -> None:
    """alone: nothing else says which job it is. Raises UsageError."""
    if not key:
        raise UsageError("the idempotency key is empty", hint="is a variable not set?")
    if len(key) > MAX_KEY or not key.isprintable():
        raise UsageError(
            f"an idempotency key has up to {MAX_KEY} characters that can be printed",
            hint="choose a shorter one",
        )
    if not alone:
        raise UsageError(
            "an idempotency key says which transfer it is, and neither a ticket nor --no-resume goes with it",
            hint="drop one of them",
        )


async def open_keyed(
    key: str,
    opening: Opening,
    broker: BrokerClient,
    ledger: Ledger,
    locks: Path,
    material: Content,
    again: SendAgain,
) -> SentJob:
    """The key's job, locked for us with the key; `ended` is set if there is nothing left to do.

    Raises:
        Locked: another run has the key, or the job. UsageError: it is of another source.
        JobCancelled: by its owner. And what `open_job` raises.
    """
    scope, source = _scope(again, broker.user), material.identity()
    name = digest_of(msgspec.msgpack.encode((scope, key))).hex()[:32]
    with contextlib.ExitStack() as undo:
        lock = undo.enter_context(FileLock(locks / f"key-{name}.lock", "sends with this idempotency key"))
        kept = ledger.keyed(scope, key)
        job = await _earlier(key, kept, opening, broker, ledger, material, source) if kept else None
        if job is None:
            new = Ticket.new()
            ledger.keep_key(scope, key, new.job, new.secret, source)
            job = await opening(ticket=None, resume=False, new=new)
        elif job.ended is None:  # the same files, but perhaps touched
            ledger.keep_key(scope, key, job.ticket.job, job.ticket.secret, source)
        job.hold(lock)
        undo.pop_all()
    return job


async def _earlier(
    key: str,
    kept: KeyRow,
    opening: Opening,
    broker: BrokerClient,
    ledger: Ledger,
    material: Content,
    source: bytes,
) -> SentJob | None:
    """None if it is gone or failed for good."""
    ticket = Ticket(kept.job, kept.secret)
    settled = msgspec.msgpack.decode(kept.summary, type=Settled) if kept.summary else None
    summary = settled.summary if settled is not None else None
    same = kept.source == source
    if not same and (summary is not None or material.tree is None):
        raise _other(
            key,
            "files that were not these, or that were touched since"
            if material.tree is not None
            else "another name or command",
        )
    try:
        opened = await broker.open(Sealer(ticket))
    except JobGone:
        if settled is None or settled.summary.outcome != "receipt":
            return None
        await _check_stream(key, settled, material)
        return _ended(ticket, ledger, Ended(settled.summary, None))
    if opened.state is api.JobState.VOID:
        if opened.cancelled:
            raise JobCancelled(CANCELLED, hint=f"{_ANOTHER} to send it again")
        return None
    if summary is None and material.tree is not None:
        try:
            return await opening(ticket=ticket, resume=True)
        except SourceChanged as changed:
            raise _other(key, changed.what) from None
    if opened.state.unfinished:  # a stream whose run was killed
        with contextlib.suppress(Conflict, JobGone):
            await broker.status(ticket.job, take_over=True)
            await broker.finish(ticket.job, api.JobState.VOID)
        return None
    stored = None
    if opened.state is api.JobState.STORED:
        stored = Stored(job=ticket.job, segments=opened.segments or 0, expires=opened.expires)
    await _check_stream(key, settled or Settled(_unsaid(ticket, opened)), material)
    return _ended(ticket, ledger, Ended(summary or _unsaid(ticket, opened), stored))


def _scope(again: SendAgain, user: str) -> str:
    room = digest_of(again.room.encode()).hex()[:16] if again.room else ""
    return f"{again.context}/{user}/{room}"


async def _check_stream(key: str, settled: Settled, material: Content) -> None:
    """What comes in a pipe is what came then, as far as that is known."""
    stream = await material.stream_again()
    if stream is not None and settled.stream and stream != settled.stream:
        raise _other(key, "what came in the pipe was other than this")


def repeat(job: SentJob, ended: Ended, on_event: Listener) -> Summary:
    """Tell what the run told that ended the job."""
    on_event(TicketReady(job=job.ticket.job, ticket=str(job.ticket)))
    on_event(Notice(text="this was sent before, with the same idempotency key: nothing is sent again"))
    if ended.stored is not None:
        on_event(ended.stored)
    on_event(ended.summary)
    return ended.summary


def _ended(ticket: Ticket, ledger: Ledger, ended: Ended) -> SentJob:
    job = SentJob(ticket, ledger, None, None)
    job.ended = ended
    return job


def _unsaid(ticket: Ticket, opened: api.Opened) -> Summary:
    """Of a stream that was stored by a run which died before it said so: what only that run knew is left out."""
    return Summary(
        job=ticket.job,
        outcome="stored" if opened.state is api.JobState.STORED else "receipt",
        bytes=opened.size or 0,
        wire=0,
        seconds=0.0,
        route="s3",
        files=1,
        chunks=0,
        resent=0,
        digest="",
    )


def _other(key: str, what: str) -> UsageError:
    return UsageError(f"the idempotency key {key!r} was used for something else: {what}", hint=_ANOTHER)
