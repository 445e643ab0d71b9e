"""The sender's record of its job: what the ledger keeps of it, and what the store has of what the ledger says was made."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
from msgspec.structs import replace

from transfer import api
from transfer.broker_client import BrokerClient
from transfer.codec import digest_of
from transfer.events import Stored, Summary
from transfer.ledger import JobRow, Ledger, PartRow, SegmentRow
from transfer.lock import FileLock
from transfer.model import TRAILER, FrameId, SegmentRef
from transfer.plan import Part
from transfer.seal import Sealer
from transfer.source import Links
from transfer.stored import StoreReader
from transfer.ticket import Ticket
from transfer.transports.s3 import NOTHING, OpenSegment, Remains

A_MOMENT = 0.5
"""Seconds in which a killed run's last request to the broker has reached the record, if it reached the store."""
Via = Literal["auto", "webrtc", "s3"]


class SendAgain(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for: enough to ask for it again. In the ledger's row.

    paths: absolute; names: what each is sent as, or empty: by its own. They and `exclude` need not be text. total: bytes
    of what was there, None for a stream.
    wait: seconds, None for ever. context: its name. room: the ticket of the one that it is posted to; empty: of none.
    """

    v: int = 1
    paths: list[bytes]
    exclude: list[bytes]
    links: Links
    total: int | None
    via: Via
    threshold: int
    wait: float | None
    expire: float
    fetches: int | None
    receipt: bool
    compress: str | int
    context: str
    room: str = ""
    names: list[bytes] = []

    def place(self) -> bytes:
        """The same for the same paths, scanned in the same way, whatever has become of what is there."""
        return digest_of(
            msgspec.msgpack.encode((sorted(self.paths), sorted(self.names), self.exclude, self.links))
        )

    def pack(self) -> bytes:
        return msgspec.msgpack.encode(self)

    @classmethod
    def unpack(cls, raw: bytes) -> SendAgain | None:
        """None for what another version of xfer wrote."""
        try:
            again = msgspec.msgpack.decode(raw, type=cls)
        except (msgspec.DecodeError, msgspec.ValidationError):
            return None
        return again if again.v == 1 else None


def absolute_paths(paths: Sequence[str | os.PathLike[str]]) -> list[bytes]:
    """From the root, but with links and `..` in them as they were: those mean what they lead to at the time."""
    return [os.fsencode(Path(path).absolute()) for path in paths]


def lock_path(locks: Path, job: str) -> Path:
    """What a run that sends this job holds."""
    return locks / f"send-{job}.lock"


class Ended(NamedTuple):
    """stored: as it is told of, None if it was delivered and is not kept."""

    summary: Summary
    stored: Stored | None


class Settled(msgspec.Struct, frozen=True, array_like=True):
    """What is kept of a job that ended well, for whoever comes with its key. stream: `outgoing.digest_of_pieces`, or empty."""

    summary: Summary
    stream: bytes = b""


class SentJob:
    """A job that exists at the broker. It is the S3 route's PartLog.

    row: None for a stream, which has no identity to find it by. remains: what an earlier run stored.
    digests: of the frames in `remains`. state: as the broker has it; an earlier run may have ended the job
    and died before it could say so. receipts: sealed, those that came while nobody listened. found: an
    earlier run made it. ended: how an earlier run with its idempotency key ended it, if nothing is left to do.
    """

    def __init__(self, ticket: Ticket, ledger: Ledger, row: JobRow | None, lock: FileLock | None) -> None:
        self.ticket = ticket
        self.sealer = Sealer(ticket)
        self.remains: Remains = NOTHING
        self.digests: dict[FrameId, bytes] = {}
        self.state = api.JobState.OPEN
        self.receipts: list[str] = []
        self.found = False
        self.ended: Ended | None = None
        self._ledger, self._row = ledger, row
        self._locks = [lock] if lock is not None else []

    @property
    def fresh(self) -> bool:
        """Made by this run: there is nothing of it anywhere."""
        return self.remains is NOTHING and not self.found and self.state is api.JobState.OPEN

    @property
    def resumable(self) -> bool:
        return self._row is not None

    def segment_begun(self, segment: int, upload: str) -> None:
        if self._row is not None:
            self._ledger.add_segment(self._row, segment, upload)

    def part_made(self, segment: int, part: Part, crc: str) -> None:
        if self._row is not None:
            self._ledger.add_part(self._row, PartRow(segment, part.number, part.length, crc, part.frames))

    def segment_stored(self, ref: SegmentRef) -> None:
        if self._row is not None:
            self._ledger.complete_segment(self._row, ref.number, ref.size)

    def end(self, summary: Summary | None = None, stream: bytes = b"") -> None:
        """The job needs no more from this side. summary, stream: of one that ended well, as in Settled."""
        if summary is not None:
            self._ledger.settle(self.ticket.job, msgspec.msgpack.encode(Settled(summary, stream)))
        if self._row is not None:
            self._ledger.end(self._row)
            self._row = None

    def close(self) -> None:
        for lock in self._locks:
            lock.close()

    def hold(self, lock: FileLock) -> None:
        """Until `close`."""
        self._locks.append(lock)

    async def recall(self, broker: BrokerClient, status: api.JobStatus) -> None:
        """Find out what is stored of what the ledger says was made, and forget the rest."""
        assert self._row is not None
        segments, parts = self._ledger.segments(self._row), self._ledger.parts(self._row)
        found = await ask(broker, self.sealer, status, segments, parts)
        for segment, dropped in found.dropped.items():
            self._ledger.drop_parts(self._row, segment, dropped)
        self._ledger.add_stored(self._row, found.learnt)
        await self.take(broker, found)

    async def take(self, broker: BrokerClient, found: Found) -> None:
        """Go on from there. What another run stored beyond a gap is given up, since nothing tells what it holds."""
        for segment in found.unknown:
            await broker.begin(self.ticket.job, segment)
        self.state, self.receipts = found.status.state, found.status.receipts
        self.remains, self.digests = found.remains, found.digests


class Found(NamedTuple):
    """What is stored of a job. status: the broker's last word.

    digests: of the frames in `remains`. learnt: complete segments that the ledger knew nothing or something else of.
    dropped: part numbers that do not count, by segment. unknown: segments beyond a gap that hold nobody knows what.
    """

    status: api.JobStatus
    remains: Remains
    digests: dict[FrameId, bytes]
    learnt: list[PartRow]
    dropped: dict[int, list[int]]
    unknown: list[int]


async def ask(
    broker: BrokerClient,
    sealer: Sealer,
    status: api.JobStatus,
    segments: Sequence[SegmentRow] = (),
    parts: Sequence[PartRow] = (),
) -> Found:
    """Compare what a ledger says with what broker and store say.

    A part counts if size and checksum agree. A store that lists no checksums (SeaweedFS) took a part
    only with the one its URL was signed for, and no part number is ever signed twice. The trailer is
    always made again: it is small, and making it computes the digest of the whole.

    Raises JobGone, DamagedData for an index that does not open, StoreUnreachable, BrokerAbsent.
    """
    made: dict[int, list[PartRow]] = {}
    for part in parts:
        made.setdefault(part.segment, []).append(part)
    left_open: list[OpenSegment] = []
    dropped: dict[int, list[int]] = {}
    for segment, upload, _ in segments:
        if segment in status.complete or status.open_uploads.get(segment) != upload:
            continue
        there = await broker.list_parts(sealer.job, segment, upload)
        if there.open:
            left = _match(segment, upload, made.get(segment, []), there.parts)
            left_open.append(left)
            kept = {part.number for part, _ in left.parts}
            dropped[segment] = [p.part for p in made.get(segment, []) if p.part not in kept]
        else:  # joined by the last request of a killed run, unless the store lost it
            await asyncio.sleep(A_MOMENT)
            status = await broker.status(sealer.job)
    left_open = [left for left in left_open if left.number not in status.complete]
    trusted, foreign, unknown = whose(status, segments)
    learnt = await _read(broker, sealer, foreign)
    ours = [part for segment in trusted for part in made.get(segment, [])]
    complete: dict[int, SegmentRef] = {}
    for part in (*ours, *learnt):
        size = part.length + (complete[part.segment].size if part.segment in complete else 0)
        complete[part.segment] = SegmentRef(part.segment, size, 0)
    found: list[Part | PartRow] = [*ours, *learnt, *(p for left in left_open for p, _ in left.parts)]
    digests = {FrameId(row.kind, row.index): row.digest for one in found for row in one.frames}
    digests.pop(TRAILER, None)
    remains = Remains(complete, left_open, set(digests))
    return Found(status, remains, digests, learnt, dropped, unknown)


def _match(
    segment: int, upload: str, made: Sequence[PartRow], there: Sequence[api.StoredPart]
) -> OpenSegment:
    """Which parts of an open upload count. The numbers of the others are not used again."""
    by_number = {part.number: part for part in there}
    found = [
        (Part(part.part, (), part.frames), replace(by_number[part.part], crc32c=part.crc32c))
        for part in made
        if part.part in by_number
        and by_number[part.part].length == part.length
        and by_number[part.part].crc32c in ("", part.crc32c)
        # A last part's tail is an index; with a part behind it that index would lie in the middle.
        and sum(frame.length for frame in part.frames) == part.length
    ]
    used = max([part.part for part in made] + list(by_number), default=0)
    return OpenSegment(segment, upload, found, used)


def whose(status: api.JobStatus, segments: Sequence[SegmentRow]) -> tuple[list[int], list[int], list[int]]:
    """The complete segments: those that the ledger tells of, those to be read, and those that cannot be read.

    Another host may have gone on with this job, under the same numbers: then from the first gap of that time
    on nothing that the ledger says is so. The gap shows, as a segment whose completion never was noted here,
    or whose upload is another one; so does a segment whose last answer a kill kept from us, which costs a read.
    """
    complete = set(status.complete)
    noted = {row.segment for row in segments if row.size}
    uploads = {row.segment: row.upload for row in segments}
    gapless, trust = True, True
    ours: list[int] = []
    foreign: list[int] = []
    unknown: list[int] = []
    for number in range(max(complete, default=-1) + 1):
        if number in complete:
            trust = trust and number in noted
            (ours if trust else foreign if gapless else unknown).append(number)
        else:
            gapless = False
            trust = trust and status.open_uploads.get(number) == uploads.get(number, "")
    settled = status.state in (api.JobState.DELIVERED, api.JobState.VOID)
    return (ours, [], []) if settled else (ours, foreign, unknown)


async def _read(broker: BrokerClient, sealer: Sealer, segments: Sequence[int]) -> list[PartRow]:
    """As parts, one for each segment."""
    if not segments:
        return []
    with contextlib.closing(StoreReader(broker, sealer)) as store:
        found = await store.segments(segments)
    return [PartRow(ref.number, 1, ref.size, "", tuple(frames)) for ref, frames in found]
