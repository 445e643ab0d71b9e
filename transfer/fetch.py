"""Fetching, as a story: ticket → open the job → hello to the sender | follow the store → verify → publish → receipt.

One chunk's way in here: it comes from a peer's channel (`transports.peer`) or out of an object (`transports.s3`) →
`assembly` opens, unpacks and checks it → `folder_sink` (or `pipe`) writes it where it belongs → `ledger` notes it → the
route acknowledges it. Once all are here: `publish` syncs them and gives final names → the receipt.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from transfer import api, config, wire
from transfer.assembly import Assembly
from transfer.broker_client import BrokerClient, Link, Patience, connected
from transfer.bwlimit import BwLimit, Rate, limit_of
from transfer.codec import Codec
from transfer.errors import (
    CANCELLED,
    BusUnreachable,
    CutShort,
    DamagedData,
    JobGone,
    PeerAbsent,
    PeerLost,
    ProtocolError,
    Temporary,
    void,
)
from transfer.events import Listener, RouteName, Summary, ignore
from transfer.hello import Greeter
from transfer.ice_urls import IceServers
from transfer.mailbox import Mailbox
from transfer.meter import Meter
from transfer.model import FORMAT, Frame, Kind, ReceiptBody
from transfer.paths import printable
from transfer.received import ReceivedJob
from transfer.seal import Purpose, Sealer
from transfer.tasks import ended
from transfer.ticket import Ticket
from transfer.transports.interfaces import check_interfaces
from transfer.transports.peer import PeerInbound
from transfer.transports.s3 import START_READING, Pace, S3Inbound

AGAIN = 0.5
"""Seconds after a lost connection before the next hello."""
QUIET = 3.0
"""Seconds without a byte after which it is said what is waited for."""
PARTING = 3.0
"""Seconds that the sender is given to hear the last acknowledgements before we leave."""
ROUNDS = 2
"""How often the store is read from its start before what lacks then is final."""


async def fetch(
    ticket: Ticket | str,
    output: Path | str | BinaryIO = "",
    *,
    context: config.Context | None = None,
    overwrite: bool = False,
    rename: bool = False,
    unsafe_links: bool = False,
    patience: float | None = None,
    concurrency: int | None = None,
    bwlimit: Rate | BwLimit | None = None,
    interfaces: Sequence[str] = (),
    over: Link | None = None,
    on_event: Listener = ignore,
) -> Summary:
    """Fetch what a ticket stands for; returns when all of it is verified, synced and under its final name.

    Args:
        output: a folder, a file name for a single file, or an open binary stream for one file's bytes;
            empty: the current folder. A str may end in "/" to say that it is a folder.
        overwrite, rename: what to do about existing targets; without either they are an error.
        unsafe_links: also make links that lead out of the folder.
        patience: seconds that an outage (as for `send`), or a sender who is away before the job is complete, is waited for.
        concurrency: requests to the store at once; None: as many as pay.
        bwlimit: bytes per second that may be taken, or what tells how many just now, or a limit that several
            share; None: all that come.
        interfaces: names and addresses of this host's network interfaces to meet the sender on; empty: all that may.
        over: a connection to use instead of one of its own.
        on_event: told what happens (`transfer.events`).
    Raises:
        XferError: see `transfer.errors`. What was written stays in a hidden folder beside the target
            and is taken up by the next fetch of the same ticket to the same place.
    """
    check_interfaces(interfaces)
    meter = Meter(on_event)
    context = context or config.load()
    ticket = Ticket.parse(ticket) if isinstance(ticket, str) else ticket
    sealer = Sealer(ticket)
    codec = Codec(sealer)
    final = False
    with ReceivedJob(
        ticket,
        output,
        overwrite=overwrite,
        rename=rename,
        unsafe_links=unsafe_links,
        context=context.name,
    ) as job:
        try:
            waiting = Patience.asked(patience, meter.waiting)
            async with connected(context, "xfer fetch", waiting, over=over) as (client, broker):
                opened = await broker.open(sealer)
                if opened.state is api.JobState.VOID:
                    raise void(opened.cancelled)
                if opened.state is api.JobState.DELIVERED and job.receipt is None:
                    raise JobGone("this transfer has been delivered and is not kept any longer")
                final = opened.state is api.JobState.STORED  # what is damaged then stays damaged
                meter.total = opened.size
                mailbox = Mailbox(
                    client,
                    context.user,
                    sealer,
                    hears=Purpose.TO_RECEIVER,
                    says=Purpose.TO_SENDER,
                    refusals=broker.refusals,
                )
                with contextlib.closing(
                    Assembly(codec, job.sink, meter, job.ledger, job.row, job.begun)
                ) as assembly:
                    limit = limit_of(bwlimit)
                    store = S3Inbound(
                        broker,
                        sealer,
                        codec,
                        patience=broker.patience,
                        in_order=job.row is None,
                        pace=Pace(concurrency, START_READING, limit.rate if limit else None),
                        limit=limit,
                        on_tick=meter.look,
                    )
                    receiver = _Receiver(assembly, mailbox, broker, sealer, store, limit, meter, job, opened)
                    summary = await receiver.run(context.ice(interfaces))
        except JobGone as gone:
            if job.begun_with is not None:
                hint = (
                    f"an earlier run fetched it with the context {job.begun_with}: name that with --context"
                )
                raise JobGone(gone.what, hint=hint) from None
            job.abandon()  # what is here can never become whole
            raise
        except (CutShort, DamagedData, ProtocolError) as damage:
            if final or isinstance(damage, CutShort):
                job.abandon()
            raise
        on_event(summary)
        if job.receipt_given:
            job.end()  # not before it was said: who dies in between says it in the next run
    return summary


class _Receiver:
    """One job's way in. Two tasks feed the assembly, the peer's (`_meet_sender`) and the store's (`_follow_store`); whoever
    is first with a frame wins."""

    def __init__(
        self,
        assembly: Assembly,
        mailbox: Mailbox,
        broker: BrokerClient,
        sealer: Sealer,
        store: S3Inbound,
        limit: BwLimit | None,
        meter: Meter,
        place: ReceivedJob,
        opened: api.Opened,
    ) -> None:
        self._assembly, self._mailbox, self._broker, self._sealer = assembly, mailbox, broker, sealer
        self._meter, self._place, self._opened = meter, place, opened
        self._store, self._limit = store, limit
        self._greeter = Greeter(mailbox, opened.owner, broker.user, place.receiver)
        meter.under_way = self._under_way

    async def run(self, ice: IceServers) -> Summary:
        """Raises as `fetch`."""
        try:
            if self._opened.segments and self._place.receipt is None:
                self._store.expect(self._opened.size)
            if self._opened.state.unfinished:  # else its sender has nothing more to say
                await self._mailbox.listen(self._broker.patience)
                if self._mailbox.deaf:
                    self._meter.notice(self._mailbox.deaf, warning=True)
            if self._place.receipt is None:
                await self._assembly.restore()
                if self._meter.done:
                    self._meter.notice("carrying on with an unfinished fetch; what is here was verified")
                await self._receive(ice)
            return await self._give_receipt()
        finally:
            await self._store.close()
            await self._mailbox.close()

    async def _receive(self, ice: IceServers) -> None:
        """Until `Assembly.consume` has every frame written, and `ReceivedJob.publish` has given everything its final name."""
        complete = asyncio.create_task(self._assembly.complete.wait())
        tasks = [
            asyncio.create_task(self._follow_store()),
            asyncio.create_task(self._watch(self._broker.patience.seconds)),
        ]
        peer: asyncio.Task[None] | None = None
        if self._opened.state.unfinished:
            tasks.append(asyncio.create_task(self._listen()))
            peer = asyncio.create_task(self._meet_sender(ice))
            tasks.append(peer)
        try:
            waiting: set[asyncio.Task[Any]] = {complete, *tasks}
            while not complete.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            await _to_its_end(self._place.publish, self._receipt())
            for notice in self._place.sink.notices:
                self._meter.notice(notice, warning=True)
            if peer is not None and self._meter.route == "webrtc":
                await asyncio.wait({peer}, timeout=PARTING)
        finally:
            await ended(complete, *tasks)

    # through the store

    async def _follow_store(self) -> None:
        """Read the segments as they come. What came damaged is read again; what then lacks was cut off."""
        for _ in range(ROUNDS):
            frames = self._store.frames(self._assembly.wanted)
            await self._assembly.consume(self._noting("s3", frames), self._store.ack)
            if self._assembly.complete.is_set():
                return
        if self._assembly.damaged:
            raise DamagedData("part of this transfer is damaged in the store")
        raise CutShort("this transfer is stored, but its end or a part of it is missing")

    # from the sender itself

    async def _listen(self) -> None:
        while True:
            signal = await self._mailbox.next()
            if isinstance(signal, wire.Offer):
                self._greeter.hear(signal)
            elif isinstance(signal, wire.UseStore):
                self._greeter.rarely = True
                self._store.announce(None)
            elif isinstance(signal, wire.SegmentStored):
                self._greeter.rarely = True
                self._store.announce(signal.ref)
            elif isinstance(signal, wire.Void):
                if signal.reason == CANCELLED:
                    raise void(True)
                raise CutShort(f"the sender ended this transfer: {printable(signal.reason)}")

    async def _meet_sender(self, ice: IceServers) -> None:
        """Say hello until there is an offer; take what the peer gives; after a loss, say hello anew."""
        while not self._assembly.complete.is_set():
            done = self._meter.done
            try:
                await self._take_from(PeerInbound(await self._greeter.meet(ice)))
            except (PeerLost, ProtocolError, BusUnreachable) as lost:
                self._meter.notice(f"the direct connection failed: {lost.what}")
                if self._meter.done == done:  # else it was good for something: the next may be, too
                    await asyncio.sleep(AGAIN)
            finally:
                self._greeter.part()

    async def _take_from(self, route: PeerInbound) -> None:
        reason = "the receiver stopped"
        try:
            frames = self._limited(route.frames(self._assembly.wanted))
            await self._assembly.consume(
                self._noting("webrtc", frames), route.ack, window=route.limits.window
            )
            reason = ""
        finally:
            await route.close(reason)

    async def _limited(self, frames: AsyncGenerator[Frame, None]) -> AsyncGenerator[Frame, None]:
        """What is not acknowledged fills the sender's window: that holds it back."""
        async with contextlib.aclosing(frames):
            async for frame in frames:
                if self._limit is not None:
                    await self._limit.wait(len(frame.data))
                yield frame

    # both

    async def _noting(
        self, route: RouteName, frames: AsyncGenerator[Frame, None]
    ) -> AsyncGenerator[Frame, None]:
        """Say which way the bytes come when they begin to."""
        async with contextlib.aclosing(frames):
            async for frame in frames:
                if self._meter.route != route and frame.id in self._assembly.wanted:
                    why = "directly from the sender" if route == "webrtc" else "from the store"
                    self._meter.choose(route, why)
                if route == "s3":
                    self._meter.concurrency = self._store.concurrency
                yield frame

    async def _watch(self, patience: float) -> None:
        """Say what is waited for; give up when the sender is away for too long.

        A store, broker or bus that is away has a patience of its own, which ends in an error that names it.
        """
        last, since = -1, time.monotonic()
        while True:
            # Not bytes that crossed: a hostile peer sends useless ones for ever.
            if self._assembly.held != last or not self._store.starved or self._store.paused:
                last, since = self._assembly.held, time.monotonic()
            if self._store.paused:
                self._meter.waiting("paused by the sender's owner", None, "owner")
            idle = time.monotonic() - since
            if idle > patience:
                raise PeerAbsent(
                    "the sender is away and its transfer is not complete",
                    hint="have the sender run its command again; run this one again at any time",
                )
            if idle > QUIET:
                self._meter.waiting("waiting for the sender", patience - idle, "sender")
            await asyncio.sleep(0.5)

    def _under_way(self) -> tuple[int, int]:
        """Of frames that come from the store, by how much of each is here: raw bytes, and encoded ones of those not whole."""
        manifest, raw, wire = self._assembly.manifest, 0.0, 0
        if manifest is None:
            return 0, 0
        for row, come in self._store.under_way(self._assembly.wanted):
            wire += come if come < row.length else 0
            if row.kind is Kind.CHUNK:
                length = manifest.chunk_length(row.index) or manifest.head.chunk_size
                raw += length * come / row.length
        return int(raw), wire

    def _receipt(self) -> ReceiptBody:
        trailer = self._assembly.trailer
        assert trailer is not None
        return ReceiptBody(FORMAT, self._place.receiver, trailer.total, trailer.chunks, trailer.digest)

    async def _give_receipt(self) -> Summary:
        """Everything is safe here whatever happens now; a receipt that cannot be given is owed by the next run."""
        receipt = self._place.receipt
        assert receipt is not None
        sealed = self._sealer.seal(Purpose.RECEIPT, 0, msgspec.msgpack.encode(receipt))
        try:
            await self._greeter.talk.say(wire.Receipted, sealed=sealed)
            await self._broker.give_receipt(self._sealer, receipt.receiver, base64.b64encode(sealed).decode())
            self._place.receipt_given = True
        except (Temporary, JobGone) as error:
            self._place.receipt_given = isinstance(error, JobGone) or self._place.row is None
            later = "" if self._place.receipt_given else ", and the same command gives it later"
            self._meter.notice(
                f"the receipt could not be given ({error.what}); the files are complete{later}", warning=True
            )
        meter = self._meter
        meter.total = receipt.total
        meter.tell()
        return Summary(
            job=self._sealer.job,
            outcome="fetched",
            bytes=receipt.total,
            wire=meter.wire,
            seconds=round(meter.seconds, 3),
            route=meter.route,
            files=meter.files,
            chunks=receipt.chunks,
            resent=meter.resent,
            digest=receipt.digest.hex(),
            paths=self._place.paths,
            kept=meter.kept,
            concurrency=meter.concurrency,
        )


async def _to_its_end(call: Callable[[ReceiptBody], None], receipt: ReceiptBody) -> None:
    """In a thread, which a cancellation waits for: it moves what our caller lets go of next."""
    work = asyncio.create_task(asyncio.to_thread(call, receipt))
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.gather(work, return_exceptions=True)
        raise
