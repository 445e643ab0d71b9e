"""Fetching from a room, as a story: what this consumer has not had → take it → fetch it → remember → tell the room.

An item counts as had when its files are verified, synced and under their final names. The ledger knows so before the job's own
row goes, and the room after that: whatever is killed in between, the next run tells the room and fetches nothing twice. A
receipt that could not be given is given before the room is told, by the next run if need be: the sender waits for it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

from transfer import config
from transfer.broker_client import Patience, connected
from transfer.bwlimit import Rate, limit_of
from transfer.codec import digest_of
from transfer.errors import Locked
from transfer.events import Listener, RoomSummary, Summary, Waiting, ignore
from transfer.fetch import fetch
from transfer.ledger import Ledger
from transfer.lock import FileLock
from transfer.room import Member, servers_of
from transfer.room_fetch.consumer import Consumer
from transfer.room_fetch.delivery import Deliveries
from transfer.room_fetch.rounds import Rounds, Which, chooser
from transfer.room_fetch.tally import Tally
from transfer.room_names import Room, find
from transfer.sink import absolute
from transfer.ticket import Ticket

SLOTS = 64
"""Runs on this host that may share a consumer's work."""


async def fetch_room(
    room: Room | str,
    output: Path | str | BinaryIO = "",
    *,
    consumer: str,
    work: bool = False,
    which: Which = "all",
    match: Sequence[str] = (),
    follow: bool = False,
    expect: bool = False,
    context: str | None = None,
    overwrite: bool = False,
    rename: bool = False,
    unsafe_links: bool = False,
    patience: float | None = None,
    concurrency: int | None = None,
    bwlimit: Rate | None = None,
    interfaces: Sequence[str] = (),
    on_event: Listener = ignore,
) -> RoomSummary:
    """Fetch what this consumer has not had yet, the oldest first; each item exactly once for this name and state folder.

    Args:
        room: its name here, or its ticket.
        output: a folder, made if it is not there, or an open binary stream for the bytes of one item's one file.
        consumer: its name among the user's own, or, with `work`, among those that all members share.
        work: each item goes to one of those who share it; one that fails is tried again, by any of them, until the room
            gives it up.
        which: `latest` takes the newest item only, and leaves the others where they are.
        match: only items of which a name at the top matches one of these globs; others are left where they are.
        follow: go on waiting for more, until cancelled.
        expect: raise NothingToDo if there was nothing.
        others: as for `fetch`, for each item.
    Raises:
        XferError: as `fetch` if there was one item; PartialDelivery if others than it were fetched; DiskFull if there was
            no room for any; Locked if another run of this host fetches for this consumer; JobGone for a room that is no more.
    """
    room = find(room)
    servers = servers_of(room, context)
    limit = limit_of(bwlimit)
    place = b""
    if isinstance(output, str | os.PathLike):
        place = os.fsencode(os.path.join(absolute(os.fspath(output) or "."), ""))
    own = digest_of(repr((room.ticket.id, servers.user, consumer, work)).encode())
    with (
        _slot(own, work) as slot,
        contextlib.closing(Ledger(config.state_dir() / "ledger.db")) as ledger,
    ):
        waiting = Patience.asked(
            patience, lambda what, left, on: on_event(Waiting(what=what, left=left, on=on))
        )
        async with connected(servers, "xfer fetch", waiting) as link:
            again = partial(fetch, context=servers, patience=patience, over=link)

            async def one(ticket: Ticket, where: bytes, listener: Listener) -> Summary:
                return await again(
                    ticket,
                    os.fsdecode(where) if where else output,
                    overwrite=overwrite,
                    rename=rename,
                    unsafe_links=unsafe_links,
                    concurrency=concurrency,
                    bwlimit=limit,
                    interfaces=interfaces,
                    on_event=listener,
                )

            async def give(ticket: Ticket, where: bytes) -> None:
                await again(ticket, os.fsdecode(where))

            us = Consumer(Member(link.broker, room), consumer, f"{ledger.name()}.{slot}", work)
            tally = Tally(on_event)
            deliveries = Deliveries(us, ledger, own, place, tally, on_event, one, give)
            await deliveries.settle()
            await Rounds(us, deliveries, tally, chooser(match), which).all(follow)
    return tally.end(expect)


@contextlib.contextmanager
def _slot(own: bytes, work: bool) -> Iterator[int]:
    """The number of this run among those of this host that fetch for that consumer. Raises Locked: one alone may."""
    locks = config.state_dir() / "locks"
    for number in range(SLOTS if work else 1):
        try:
            lock = FileLock(
                locks / f"room-{own.hex()[:16]}-{number}.lock", "fetches from this room under this name"
            )
        except Locked:
            continue
        with lock:
            yield number
        return
    raise Locked(
        "another run fetches from this room under this name",
        hint="wait for it to end, or name another with --as",
    )
