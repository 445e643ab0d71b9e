"""What this host has begun and its owner ended meanwhile, from here or elsewhere: it is forgotten, with what had arrived."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from typing import NamedTuple

from transfer import api, config, received, sent
from transfer.broker_client import BrokerClient, Patience, connected
from transfer.errors import CANCELLED, JobGone, Locked, XferError
from transfer.events import Unfinished
from transfer.lock import FileLock
from transfer.received import FetchAgain, ReceivedJob
from transfer.seal import Sealer
from transfer.sent import SendAgain
from transfer.tasks import ended
from transfer.ticket import Ticket
from transfer.unfinished import ledger, servers, unfinished

ASKED_WITHIN = 4.0
"""Seconds for a broker to say how all of it stands: a list of what is here does not wait for long."""


class Verdict(NamedTuple):
    """What there is to say of a transfer. forgotten: it is not among the unfinished ones any more."""

    job: Unfinished
    told: str
    forgotten: bool


class _Begun(NamedTuple):
    """An unfinished transfer as the ledger has it. owed: only a receipt is."""

    job: Unfinished
    ticket: Ticket
    context: str
    owed: bool


def forget(job: str, *, name: bool = False) -> list[Unfinished]:
    """Give up what is unfinished of a job here, and remove what a fetch had written; what runs ends by itself.

    name: forget as well what it was of. Raises XferError if anything cannot be removed.
    """
    if name:
        with contextlib.closing(ledger()) as opened:
            opened.drop_label(job)
    return [begun.job for begun in _begun() if begun.job.job == job and _forget(begun)]


async def prune(jobs: Sequence[Unfinished]) -> list[Verdict]:
    """Ask about those that do not run, and forget those that are void; what had arrived of them can never become whole.

    Servers that do not answer are left alone, and what they know nothing of is only told: they may be the wrong ones.
    """
    numbers = {job.number for job in jobs if not job.running}
    groups: dict[str, list[_Begun]] = {}
    for begun in _begun():
        if begun.job.number in numbers:
            groups.setdefault(begun.context, []).append(begun)
    answers = await asyncio.gather(*(_ask(name, group) for name, group in groups.items()))
    return [verdict for answer in answers for verdict in answer]


async def _ask(context: str, group: Sequence[_Begun]) -> list[Verdict]:
    try:
        async with connected(servers(context), "xfer", Patience(0)) as (_client, broker):
            asking = {asyncio.create_task(_fate(broker, begun)): begun for begun in group}
            try:
                answered, _late = await asyncio.wait(asking, timeout=ASKED_WITHIN)
            finally:
                await ended(*asking)
    except XferError:
        return []
    verdicts = []
    for task, begun in asking.items():
        what = f"{begun.job.side} {begun.job.job} ({begun.job.label})"
        fate = task.result() if task in answered else ""
        if fate is None:
            told = f"{what}: its servers know of it no more; it has expired, or was removed"
            verdicts.append(Verdict(begun.job, told, False))
        elif fate:
            with contextlib.suppress(
                XferError
            ):  # then it stays in the list, and going on with it says what is wrong
                if _forget(begun):
                    gone = "; what had arrived of it is removed" if begun.job.side == "fetch" else ""
                    verdicts.append(Verdict(begun.job, f"{what}: {fate}{gone}", True))
    return verdicts


async def _fate(broker: BrokerClient, begun: _Begun) -> str | None:
    """Why there is nothing to go on with; empty if there is, None if nobody knows."""
    try:
        if begun.job.side == "send":
            status = await broker.status(begun.ticket.job)
            state, cancelled = status.state, status.cancelled
        else:
            opened = await broker.open(Sealer(begun.ticket))
            state, cancelled = opened.state, opened.cancelled
    except JobGone:
        return None
    except XferError:  # who cannot say is not asked again
        return ""
    if state is api.JobState.VOID:
        return CANCELLED if cancelled else "this transfer was ended by its sender"
    if state is api.JobState.DELIVERED and begun.job.side == "fetch" and not begun.owed:
        return "this transfer has been delivered and is not kept any longer"
    return ""


def _begun() -> list[_Begun]:
    """Those of this version of xfer."""
    found = []
    with contextlib.closing(ledger()) as opened:
        for job in unfinished():
            for row in opened.select(job.side, job=job.job):
                state = opened.state(row)
                asked = SendAgain.unpack(state) if job.side == "send" else FetchAgain.unpack(state)
                if row.id == job.number and asked is not None:
                    owed = job.side == "fetch" and received.owed(state) is not None
                    found.append(_Begun(job, Ticket(row.job, row.secret), asked.context, owed))
    return found


def _forget(begun: _Begun) -> bool:
    """False if another run works on it, or ended it just now."""
    job = begun.job
    with contextlib.closing(ledger()) as opened, contextlib.suppress(Locked):
        row = next((row for row in opened.select(job.side, job=job.job) if row.id == job.number), None)
        if row is None:
            return False
        if job.side == "send":
            with FileLock(sent.lock_path(config.state_dir() / "locks", job.job), "sends this job"):
                opened.end(row)
            return True
        asked = FetchAgain.unpack(opened.state(row))
        if asked is None:
            return False
        with ReceivedJob(
            begun.ticket,
            os.fsdecode(asked.output),
            overwrite=asked.overwrite,
            rename=asked.rename,
            unsafe_links=asked.unsafe_links,
            context=asked.context,
        ) as left:
            left.abandon()
        return True
    return False
