"""What this host has begun and not ended, sends and fetches alike, and going on with it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from msgspec.structs import replace

from transfer import api, chunks, config, received, sent
from transfer.bwlimit import Rate
from transfer.errors import JobGone, UsageError
from transfer.events import Listener, Summary, TicketReady, Unfinished, ignore
from transfer.fetch import fetch
from transfer.jobs import jobs
from transfer.ledger import JobRow, Ledger
from transfer.lock import is_held
from transfer.model import Kind
from transfer.opening import OnPause
from transfer.received import FetchAgain
from transfer.room_names import known
from transfer.send import send
from transfer.sent import SendAgain
from transfer.source import SourceFile
from transfer.ticket import RoomTicket, Ticket


def unfinished() -> list[Unfinished]:
    """In the order in which they were begun. Streams are not among them: they cannot be taken up again.

    Raises XferError if the ledger cannot be read.
    """
    with contextlib.closing(ledger()) as opened:
        sends = [_send(opened, row) for row in opened.unfinished("send")]
        fetches = [_fetch(opened, row) for row in opened.unfinished("fetch")]
    return sorted(sends + fetches, key=lambda job: job.begun)


async def resume(
    job: Unfinished,
    *,
    patience: float | None = None,
    concurrency: int | None = None,
    bwlimit: Rate | None = None,
    interfaces: Sequence[str] = (),
    on_pause: OnPause = "lift",
    on_event: Listener = ignore,
) -> Summary:
    """Run it again as it was asked for, with the same servers, to its end.

    Args:
        on_pause: as for `send`.
        patience, concurrency, bwlimit, interfaces, on_event: as for `send` and `fetch`.
    Raises:
        XferError: as `send` and `fetch` do. JobGone also if it was ended meanwhile.
    """
    row, state = _kept(job)
    if row is None:
        raise JobGone(f"the {job.side} {job.job} is not unfinished any more", hint="there is nothing to do")
    ticket = Ticket(row.job, row.secret)
    asked = SendAgain.unpack(state) if job.side == "send" else FetchAgain.unpack(state)
    if asked is None:
        raise UsageError(
            f"the {job.side} {job.job} was begun by another version of xfer", hint="run its own command again"
        )
    if isinstance(asked, FetchAgain):
        return await fetch(
            ticket,
            os.fsdecode(asked.output),
            context=servers(asked.context),
            overwrite=asked.overwrite,
            rename=asked.rename,
            unsafe_links=asked.unsafe_links,
            patience=patience,
            concurrency=concurrency,
            bwlimit=bwlimit,
            interfaces=interfaces,
            on_event=on_event,
        )
    paths = [os.fsdecode(path) for path in asked.paths]
    return await send(
        paths if not asked.names else (),
        files=[SourceFile(*file) for file in zip(paths, asked.names, strict=False)],
        context=servers(asked.context),
        via=asked.via,
        threshold=asked.threshold,
        wait=asked.wait,
        expire=asked.expire,
        fetches=asked.fetches,
        receipt=asked.receipt,
        compress=asked.compress,
        exclude=[os.fsdecode(pattern) for pattern in asked.exclude],
        links=asked.links,
        ticket=ticket,
        room=known(RoomTicket.parse(asked.room)) if asked.room else None,
        on_pause=on_pause,
        patience=patience,
        concurrency=concurrency,
        bwlimit=bwlimit,
        interfaces=interfaces,
        on_event=_without_ticket(on_event) if asked.room else on_event,
    )


def _without_ticket(listener: Listener) -> Listener:
    """The room has it, and no log."""
    return lambda event: listener(replace(event, ticket=None) if isinstance(event, TicketReady) else event)


async def lift(job: Unfinished) -> bool:
    """Have it go on where it runs, if its owner paused it and is who we are. False: there was nothing to lift.

    Raises Temporary.
    """
    _, state = _kept(job)
    asked = SendAgain.unpack(state) or FetchAgain.unpack(state)
    if asked is None:
        return False
    async with jobs(servers(asked.context)) as mine:
        try:
            _, status = await mine.status(job.job)
            if status.state is not api.JobState.PAUSED:
                return False
            await mine.resume(job.job)
        except (JobGone, UsageError):  # somebody else's, or it ended meanwhile
            return False
    return True


def ledger() -> Ledger:
    """This host's; the caller closes it. Raises XferError if it cannot be read."""
    return Ledger(config.state_dir() / "ledger.db")


def servers(name: str) -> config.Context:
    """Those of that context; where none had a name, those of the environment."""
    nameless = name == config.NAMELESS and name not in config.contexts()
    return config.load(None if nameless else name)


def _kept(job: Unfinished) -> tuple[JobRow | None, bytes]:
    """Its row, and what that holds; None and nothing if it is not unfinished any more."""
    with contextlib.closing(ledger()) as opened:
        rows = opened.select(job.side, job=job.job)
        row = next((row for row in rows if row.id == job.number), None)
        return row, b"" if row is None else opened.state(row)


def _send(opened: Ledger, row: JobRow) -> Unfinished:
    """done: what lies in complete segments; of the open ones only the store knows what it has."""
    asked = SendAgain.unpack(opened.state(row))
    total = asked.total if asked is not None else None
    complete = {segment.segment for segment in opened.segments(row) if segment.size}
    parts = (part for part in opened.parts(row) if part.segment in complete)
    stored = {frame.index for part in parts for frame in part.frames if frame.kind is Kind.CHUNK}
    lock = sent.lock_path(config.state_dir() / "locks", row.job)
    return Unfinished(
        number=row.id,
        job=row.job,
        side="send",
        label=row.label,
        done=_bytes(len(stored), chunks.chunk_size_for(total), total),
        total=total,
        begun=row.created,
        running=is_held(lock),
    )


def _fetch(opened: Ledger, row: JobRow) -> Unfinished:
    first = opened.blocks(row).get(0)
    head = chunks.read_block(first, 0).head if first is not None else None
    total = head.total if head is not None else None
    done = _bytes(opened.chunks(row), head.chunk_size, total) if head is not None else 0
    receipt = received.owed(opened.state(row))
    lock = received.lock_path(config.state_dir() / "locks", row.job, row.key)
    return Unfinished(
        number=row.id,
        job=row.job,
        side="fetch",
        label=row.label,
        done=done if receipt is None else receipt.total,
        total=total if receipt is None else receipt.total,
        begun=row.created,
        running=is_held(lock),
    )


def _bytes(count: int, chunk_size: int, total: int | None) -> int:
    """Of so many chunks; the last one is shorter as a rule."""
    return count * chunk_size if total is None else min(total, count * chunk_size)
