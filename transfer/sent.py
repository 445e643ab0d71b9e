"""The sender's record of its job: made anew, or found again after a run that did not end."""

from __future__ import annotations

import contextlib
from pathlib import Path

from msgspec.structs import replace

from transfer import api
from transfer.broker_client import BrokerClient
from transfer.errors import JobGone, Locked
from transfer.ledger import JobRow, Ledger, PartRow
from transfer.lock import FileLock
from transfer.model import TRAILER, FrameId, SegmentRef
from transfer.plan import Part
from transfer.seal import Sealer
from transfer.ticket import Ticket
from transfer.transports.s3 import NOTHING, OpenSegment, Remains


class SentJob:
    """A job that exists at the broker. It is the S3 route's PartLog.

    row: None for a stream, which has no identity to find it by. remains: what an earlier run stored.
    digests: of the frames in `remains`. state: as the broker has it; an earlier run may have ended the job
    and died before it could say so. receipts: sealed, those that came while nobody listened. found: an earlier run made it.
    """

    def __init__(
        self, ticket: Ticket, ledger: Ledger | None, row: JobRow | None, lock: FileLock | None
    ) -> None:
        self.ticket = ticket
        self.sealer = Sealer(ticket)
        self.remains: Remains = NOTHING
        self.digests: dict[FrameId, bytes] = {}
        self.state = api.JobState.OPEN
        self.receipts: list[str] = []
        self.found = False
        self._ledger, self._row, self._lock = ledger, row, lock

    @property
    def resumable(self) -> bool:
        return self._row is not None

    def segment_begun(self, segment: int, upload: str) -> None:
        if self._ledger and self._row:
            self._ledger.add_segment(self._row, segment, upload)

    def part_made(self, segment: int, part: Part, crc: str) -> None:
        if self._ledger and self._row:
            self._ledger.add_part(self._row, PartRow(segment, part.number, len(part.data), crc, part.frames))

    def segment_stored(self, ref: SegmentRef) -> None:
        if self._ledger and self._row:
            self._ledger.complete_segment(self._row, ref.number, ref.size)

    def end(self) -> None:
        """The job needs no more from this side."""
        if self._ledger and self._row:
            self._ledger.end(self._row)
            self._row = None

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()

    async def recall(self, broker: BrokerClient, status: api.JobStatus) -> None:
        """Ask the store what it has of what the ledger says was made; forget the rest.

        A part counts if size and checksum agree. A store that lists no checksums (SeaweedFS) took a part
        only with the one its URL was signed for, and no part number is ever signed twice. The trailer is
        always made again: it is small, and making it computes the digest of the whole.
        """
        assert self._ledger is not None
        assert self._row is not None
        self.state, self.receipts = status.state, status.receipts
        made: dict[int, list[PartRow]] = {}
        for part in self._ledger.parts(self._row):
            made.setdefault(part.segment, []).append(part)
        complete: dict[int, SegmentRef] = {}
        left_open: list[OpenSegment] = []
        stored: set[FrameId] = set()
        for segment, upload, _ in self._ledger.segments(self._row):
            parts = made.get(segment, [])
            if segment in status.complete:
                size = sum(p.length for p in parts)
                complete[segment] = SegmentRef(segment, size, 0)
            elif status.open_uploads.get(segment) == upload:
                there = await broker.list_parts(self.ticket.job, segment, upload)
                if not there.open:
                    continue  # the store forgot it: begun anew under the same number when frames need it
                by_number = {p.number: p for p in there.parts}
                found = [
                    (Part(p.part, b"", p.frames), replace(by_number[p.part], crc32c=p.crc32c))
                    for p in parts
                    if p.part in by_number
                    and by_number[p.part].length == p.length
                    and by_number[p.part].crc32c in ("", p.crc32c)
                ]
                # A last part's tail is an index; with a part behind it that index would lie in the middle.
                found = [(part, at) for part, at in found if sum(f.length for f in part.frames) == at.length]
                kept = {part.number for part, _ in found}
                self._ledger.drop_parts(self._row, segment, [p.part for p in parts if p.part not in kept])
                used = max([p.part for p in parts] + list(by_number), default=0)
                left_open.append(OpenSegment(segment, upload, found, used))
                parts = [p for p in parts if p.part in kept]
            else:
                continue
            for part in parts:
                for row in part.frames:
                    frame = FrameId(row.kind, row.index)
                    stored.add(frame)
                    self.digests[frame] = row.digest
        stored.discard(TRAILER)
        self.remains = Remains(complete, left_open, stored)


async def open_job(
    broker: BrokerClient,
    ledger: Ledger,
    locks: Path,
    *,
    identity: bytes | None,
    label: str,
    size: int | None,
    expire: float,
    fetches: int | None,
    resume: bool,
) -> SentJob:
    """The unfinished job of this source, if there is one that still lives and nobody works on, else a new one."""
    if identity is not None and resume:
        found = await _unfinished(broker, ledger, locks, identity)
        if found is not None:
            return found
    ticket = Ticket.new()
    sealer = Sealer(ticket)
    await broker.create(
        api.Create(job=ticket.job, token_hash=sealer.token_hash(), size=size, expire=expire, fetches=fetches)
    )
    if identity is None:
        return SentJob(ticket, None, None, None)
    lock = FileLock(_lock_path(locks, ticket.job), "sends this job")
    row = ledger.add("send", ticket.job, identity, ticket.secret, label=label)
    return SentJob(ticket, ledger, row, lock)


async def _unfinished(broker: BrokerClient, ledger: Ledger, locks: Path, identity: bytes) -> SentJob | None:
    row = ledger.find("send", identity)
    if row is None:
        return None
    try:
        lock = FileLock(_lock_path(locks, row.job), "sends this job")
    except Locked:
        return None  # the same file is being sent to somebody else just now: a job of its own
    try:
        status = await broker.status(row.job)
        if status.state is not api.JobState.VOID:
            job = SentJob(Ticket(row.job, row.secret), ledger, row, lock)
            await job.recall(broker, status)
            job.found = True
            return job
        ledger.end(row)
    except JobGone:
        ledger.end(row)
    except BaseException:
        lock.close()
        raise
    lock.close()
    with contextlib.suppress(OSError):
        _lock_path(locks, row.job).unlink()
    return None


def _lock_path(locks: Path, job: str) -> Path:
    return locks / f"send-{job}.lock"
