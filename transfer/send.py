"""Sending, as a story: content → job at the broker → ticket → a route → a receipt, or stored.

One chunk's way out of here: `scan` found its files, `chunks` says which of their bytes it is → `outgoing` reads,
compresses and seals it → `direct` puts it on a peer's channel (`transports.peer`), or `through_store` in a part of an
object (`transports.s3`) → `safe` notes that it arrived → `receivers` hear that somebody has everything.
A little over 400 lines: a quarter of them says what `send` takes, and what each of it means.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from functools import partial
from typing import BinaryIO, Literal, NamedTuple

from msgspec.structs import replace

from transfer import api, config, content, wire
from transfer.announce import Announcer
from transfer.broker_client import BrokerClient, Conflict, Link, Patience, connected
from transfer.bwlimit import BwLimit, Rate, limit_of
from transfer.codec import Codec
from transfer.content import Content
from transfer.control import Control
from transfer.errors import CANCELLED, JobCancelled, JobGone, Refused, SourceTrouble, UsageError, XferError
from transfer.events import Listener, Posted, Stored, Summary, TicketReady, ignore
from transfer.hold import Hold
from transfer.ice_urls import IceServers
from transfer.idempotency import check_key, open_keyed, repeat
from transfer.ledger import Ledger
from transfer.mailbox import Mailbox
from transfer.meter import Meter
from transfer.model import FrameSet, Kind
from transfer.opening import OnPause, open_job
from transfer.outgoing import OutgoingStream
from transfer.receivers import Receivers
from transfer.room import Item, Member, servers_of
from transfer.room_names import Room, find
from transfer.safe import Safe
from transfer.seal import Purpose
from transfer.sent import SendAgain, SentJob, Via, absolute_paths
from transfer.source import Links, SourceFile
from transfer.through_store import ThroughStore
from transfer.ticket import Ticket
from transfer.transports.interfaces import check_interfaces
from transfer.transports.s3 import Pace

THRESHOLD = 100_000_000
"""Bytes. Below it a peer is offered the transfer directly."""


async def send(
    paths: Sequence[str | os.PathLike[str]] = (),
    *,
    files: Sequence[SourceFile] = (),
    context: config.Context | None = None,
    stream: BinaryIO | None = None,
    command: str | None = None,
    name: str | None = None,
    via: Via = "auto",
    threshold: int = THRESHOLD,
    wait: float | None = 60.0,
    expire: float = 86_400.0,
    fetches: int | None = None,
    receipt: bool = False,
    compress: str | int = "auto",
    exclude: Sequence[str] = (),
    links: Links = "preserve",
    resume: bool = True,
    ticket: Ticket | str | None = None,
    fresh: bool = False,
    room: Room | str | None = None,
    idempotency_key: str | None = None,
    on_pause: OnPause = "wait",
    patience: float | None = None,
    concurrency: int | None = None,
    bwlimit: Rate | BwLimit | None = None,
    interfaces: Sequence[str] = (),
    over: Link | None = None,
    on_event: Listener = ignore,
) -> Summary:
    """Send files, folders, a stream or a command's output; returns once somebody has them or the store does.

    Args:
        paths: what to send; or `files`, with names of their own; or `stream`, or `command`, whose bytes arrive as a
            file called `name`.
        via: `auto` offers small jobs to a peer first; `webrtc` never stores; `s3` stores at once.
        threshold: bytes from which on `auto` stores at once.
        wait: seconds to wait for a receiver before storing; 0 not at all; None for ever.
        expire: seconds that it is kept once stored.
        fetches: distinct receipts after which it is deleted; None: kept until it expires.
        receipt: do not return before a receipt came, also when stored.
        compress: `auto`, `off`, or a zstd level from 1 to 19.
        exclude, links: see `transfer.scan`.
        resume: carry on with an unfinished job of the same, unchanged source. False: void it, and send anew.
        ticket: go on with this job, begun here or on another host with the same files. fresh: it is not begun at all.
        room: (its name here, or its ticket) post the ticket there once it is stored; then no receiver is waited
            for, and the store takes all.
        idempotency_key: the name of this very transfer, chosen by whoever may have to ask for it again: as long as it
            is there, every call with the same key by the same user on this host is about one job. See
            `transfer.idempotency` for what that means.
        on_pause: what to do about a job that its owner has paused: `wait` for its end, `lift` it, or `refuse` to run.
        patience: seconds that an outage of bus, broker or store is ridden out, from the start; None: ten minutes once it
            has begun, but not while nothing has answered yet.
        concurrency: requests to the store at once; None: as many as pay.
        bwlimit: bytes per second that may be sent, or what tells how many just now, or a limit that several
            share; None: all that go.
        interfaces: names and addresses of this host's network interfaces to meet a peer on; empty: all that may.
        over: a connection to use instead of one of its own.
        on_event: told what happens (`transfer.events`); the ticket comes first.
    Raises:
        XferError: see `transfer.errors`; PartialSource only after everything readable was sent.
    """
    if expire <= 0:
        raise UsageError("a transfer that expires at once cannot be fetched", hint="give --expire a time")
    check_interfaces(interfaces)
    if idempotency_key is not None:
        check_key(idempotency_key, alone=ticket is None and resume)
    announcer = Announcer(on_event)
    meter = Meter(announcer)
    room = find(room) if room is not None else None
    context = context or (servers_of(room, None) if room is not None else config.load())
    ticket = Ticket.parse(ticket) if isinstance(ticket, str) else ticket
    material = content.of(paths, files, stream, command, name, exclude, links)
    again = SendAgain(
        paths=absolute_paths([file.path for file in files] or paths),
        names=[file.name for file in files],
        exclude=[os.fsencode(pattern) for pattern in exclude],
        links=links,
        total=material.manifest.total,
        via=via,
        threshold=threshold,
        wait=wait,
        expire=expire,
        fetches=fetches,
        receipt=receipt,
        compress=compress,
        context=context.name,
        room=str(room.ticket) if room is not None else "",
    )
    _refuse_contradictions(again)
    asked = again if room is None else replace(again, via="s3", wait=0.0)
    with contextlib.closing(material), contextlib.closing(Ledger(config.state_dir() / "ledger.db")) as ledger:
        for notice in material.notices:
            meter.notice(notice, warning=True)
        waiting = Patience.asked(patience, meter.waiting)
        async with connected(context, "xfer send", waiting, over=over) as (client, broker):
            locks = config.state_dir() / "locks"
            opening = partial(open_job, broker, ledger, locks, material, again, meter, on_pause=on_pause)
            if ticket is not None and fresh:
                job = await opening(ticket=None, resume=False, new=ticket)
            elif idempotency_key is None:
                job = await opening(ticket=ticket, resume=resume)
            else:
                job = await open_keyed(idempotency_key, opening, broker, ledger, locks, material, again)
            if job.ended is not None:
                with contextlib.closing(job):
                    summary = repeat(job, job.ended, on_event)
                material.raise_if_partial()
                return summary
            mailbox = Mailbox(
                client,
                context.user,
                job.sealer,
                hears=Purpose.TO_SENDER,
                says=Purpose.TO_RECEIVER,
                refusals=broker.refusals,
            )
            limit = limit_of(bwlimit)
            pace = Pace(concurrency, rate=limit.rate if limit else None)
            means = _Means(context.ice(interfaces), pace, limit, Hold())
            codec = Codec(job.sealer, compress)
            control = Control(client, broker, job.ticket.job, means.hold, meter)
            control.stands(job.state)
            sender = _Sender(
                asked, material, job, broker, mailbox, codec, meter, announcer, means, control, room
            )
            with contextlib.closing(job):
                async with announcer.on(client, context.user, job.ticket.job):
                    summary = await sender.run()
                on_event(summary)
                job.end(
                    summary, sender.stream
                )  # not before it was said: who dies in between says it in the next run
    material.raise_if_partial()
    return summary


def _refuse_contradictions(asked: SendAgain) -> None:
    """Before there is a job that could never be sent. Raises UsageError."""
    if asked.via == "webrtc" and asked.total is None:
        raise UsageError("a stream of unknown length goes through the store", hint="drop `--via webrtc`")
    if asked.via == "webrtc" and asked.room:
        raise UsageError("a room's members come later, and webrtc stores nothing", hint="drop `--via webrtc`")
    if asked.via == "webrtc" and asked.wait == 0:
        raise UsageError("webrtc needs a receiver, and none is waited for", hint="give --wait a time")


class _Means(NamedTuple):
    """What the routes may use: servers that help peers to meet, requests at once, bytes a second; and whether, just now."""

    ice: IceServers
    pace: Pace
    limit: BwLimit | None
    hold: Hold


class _Sender:
    """One job's way out. `run` is the story; everything else is a chapter of it."""

    def __init__(
        self,
        asked: SendAgain,
        material: Content,
        job: SentJob,
        broker: BrokerClient,
        mailbox: Mailbox,
        codec: Codec,
        meter: Meter,
        listener: Listener,
        means: _Means,
        control: Control,
        room: Room | None,
    ) -> None:
        self._asked, self._names, self._room = asked, material.names, room
        self._job, self._broker, self._codec, self._control = job, broker, codec, control
        self._meter, self._listener, self._means = meter, listener, means
        self._out = material.outgoing(codec)
        self._out.digests.update(job.digests)
        meter.learn(self._out.manifest)
        self._safe = Safe(self._out.raw_length, meter)
        self._kept = False  # stored: whatever becomes of us, whoever has the ticket can fetch it
        meter.level = codec.level
        self._receivers = Receivers(mailbox, broker, job.sealer, lambda: self._out.root, meter, listener)

    async def run(self) -> Summary:
        """Raises as `send`."""
        try:
            return await self._control.guard(self._go())
        except JobCancelled as cancelled:
            await self._void(cancelled.what)
            raise
        except (Conflict, JobGone):  # somebody may have had everything before we heard of it
            status = await self._broker.status(self._job.ticket.job)
            if status.state is api.JobState.VOID:
                await self._void(CANCELLED)
                raise JobCancelled(CANCELLED) from None
            if status.state is not api.JobState.DELIVERED:
                raise
            self._job.state, self._job.receipts = status.state, status.receipts
            return await self._ended_before()
        except SourceTrouble as error:
            await self._void(error.what)
            raise
        except Refused:
            if not self._job.resumable and not self._kept:
                await self._void("the broker does not let the sender store more")
            raise
        except asyncio.CancelledError:
            if not self._job.resumable and not self._kept:
                await self._void("the sender was interrupted")
            raise
        finally:
            await self._receivers.close()
            self._out.close()

    async def _go(self) -> Summary:
        """The end that an earlier run came to, or peers (`Direct`), or else, or then, the store (`ThroughStore`)."""
        asked, total = self._asked, self._out.manifest.total
        small = total is not None and total < asked.threshold
        may_wait = asked.via == "auto" and asked.wait != 0
        directly = asked.via == "webrtc" or (may_wait and small and not self._job.remains.stored)
        if not directly and self._job.fresh:
            return await self._all_through_store(small)
        await self._offer()
        if self._job.found:
            self._meter.notice("carrying on with the unfinished transfer of the same source")
        if not self._job.state.unfinished:
            return await self._ended_before()
        if not directly:
            self._meter.choose("s3", self._why_stored(small))
        elif await self._directly():
            return await self._delivered()
        return await self._through_store(self._store())

    def _why_stored(self, small: bool) -> str:
        """For people: why no peer is offered it first."""
        if self._out.manifest.total is None:
            return "its length is unknown"
        if self._room is not None:
            return "a room keeps what is stored"
        if self._asked.via == "s3":
            return "asked for"
        return "nobody is waited for" if small else "it is large"

    async def _offer(self) -> None:
        """Listen for receivers; then there may be some."""
        await self._receivers.open()
        self._listener(TicketReady(job=self._job.ticket.job, ticket=str(self._job.ticket)))

    async def _directly(self) -> bool:
        """False: the store must take over. The ticket is shown before the direct route is imported (0.1 s)."""
        from transfer.direct import Direct

        if self._job.receipts:
            await self._recall_receipts()
        means = self._means
        direct = Direct(
            self._out,
            self._receivers,
            self._safe,
            self._meter,
            means.ice,
            means.limit,
            means.hold,
            self._recall_receipts,
        )
        return await direct.serve(self._asked.wait, self._asked.fetches, store=self._asked.via != "webrtc")

    def _store(self) -> ThroughStore:
        means = self._means
        return ThroughStore(
            self._out,
            self._receivers,
            self._safe,
            self._meter,
            self._broker,
            self._job,
            self._codec,
            means.pace,
            means.limit,
            means.hold,
        )

    async def _all_through_store(self, small: bool) -> Summary:
        """A new job, and nobody is waited for: the ticket is told while the first part is made."""
        route = self._store()
        route.begin()
        try:
            await self._offer()
            self._meter.choose("s3", self._why_stored(small))
            return await self._through_store(route)
        finally:
            await route.close()

    async def _through_store(self, route: ThroughStore) -> Summary:
        segments = await route.serve(self._asked.wait, self._asked.fetches or 1)
        return await (self._delivered() if segments is None else self._stored(segments))

    # the ends

    async def _ended_before(self) -> Summary:
        """An earlier run had the job delivered or stored, and died before it said so or had its receipt."""
        await self._recall_receipts()
        for frame in self._out.everything:
            self._safe.found(frame)
        if self._job.state is api.JobState.DELIVERED:
            return self._summary("receipt")
        segments = len(self._job.remains.complete)
        self._meter.choose("s3", "an earlier run stored it")
        await self._receivers.use_store(lambda: segments)
        return await self._stored(segments)

    async def _recall_receipts(self) -> None:
        """Those that came while nobody listened. They name the digest of the whole, so that is made first."""
        trailer = FrameSet([(Kind.TRAILER, 0, 1)])
        async with contextlib.aclosing(self._out.frames(trailer)) as frames:
            async for _ in frames:
                pass
        self._receivers.recall(self._job.receipts)

    async def _delivered(self) -> Summary:
        await self._broker.finish(self._job.ticket.job, api.JobState.DELIVERED)
        return self._summary("receipt")

    async def _stored(self, segments: int) -> Summary:
        finished = await self._broker.finish(self._job.ticket.job, api.JobState.STORED, segments)
        self._kept = True
        await self._receivers.tell(wire.UseStore, segments=segments)
        self._meter.tell()
        room = self._room.name if self._room is not None else None
        self._listener(
            Stored(job=self._job.ticket.job, segments=segments, expires=finished.expires, room=room)
        )
        if self._room is not None:
            await self._post(self._room)
        if not self._asked.receipt:
            return self._summary("stored")
        while not self._receivers.receipts:
            await self._receivers.receipt_before(None, "stored; waiting for the receipt")
        return self._summary("receipt")

    async def _post(self, room: Room) -> None:
        """Whoever is killed before this has not ended: the next run does it, and again is the same as once."""
        item = Item.of(self._job.ticket, self._names, self._meter.files, self._meter.done)
        number = await Member(self._broker, room).post(item)
        self._listener(Posted(job=self._job.ticket.job, room=room.name, number=number))

    async def _void(self, reason: str) -> None:
        """Tell whoever waits that this will never be complete, and the broker to forget it."""
        with contextlib.suppress(XferError, TimeoutError):  # whatever the broker says: the cause is told
            async with asyncio.timeout(2):
                await self._receivers.tell(wire.Void, reason=reason)
                await self._broker.finish(self._job.ticket.job, api.JobState.VOID)
        self._job.end()

    @property
    def stream(self) -> bytes:
        """As in Settled, once all is sent."""
        return self._out.stream if isinstance(self._out, OutgoingStream) else b""

    def _summary(self, outcome: Literal["receipt", "stored"]) -> Summary:
        meter = self._meter
        return Summary(
            job=self._job.ticket.job,
            outcome=outcome,
            bytes=meter.done,
            wire=meter.wire,
            seconds=round(meter.seconds, 3),
            route=meter.route,
            files=meter.files,
            chunks=self._safe.frames.count(Kind.CHUNK),
            resent=meter.resent,
            digest=self._out.root.hex(),
            kept=meter.kept,
            concurrency=meter.concurrency,
            level=meter.level,
        )
