"""A sender with a real ticket and no scruples: whatever frames it likes, in the real store."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from helpers import Two

from transfer import api, chunks, config
from transfer.broker_client import Patience, connected
from transfer.chunks import MIB
from transfer.codec import PURPOSE, Codec, Encoded, digest_of
from transfer.model import (
    FORMAT,
    Entry,
    EntryKind,
    Frame,
    FrameId,
    Head,
    IndexedFrame,
    Kind,
    ManifestBlock,
    SegmentIndex,
    SegmentRef,
)
from transfer.plan import Part
from transfer.seal import Sealer
from transfer.ticket import Ticket
from transfer.transports.s3 import Remains, S3Outbound

BLOCK, TRAILER = FrameId(Kind.MANIFEST, 0), FrameId(Kind.TRAILER, 0)
INSIDE = struct.Struct(">BI32s")
"""What stands before the body inside a seal: codec, raw length, digest (`transfer.codec`)."""


class Raw(NamedTuple):
    """A frame whose inside is written by hand: `plain` is sealed as it is."""

    id: FrameId
    plain: bytes


Made = tuple[FrameId, bytes] | Raw
"""A frame to be: (id, raw bytes) to encode in the ordinary way, or a Raw."""


class Lie(Codec):
    """Encodes as it should, but for the rows of each segment's index, which `alter` may change."""

    def __init__(self, sealer: Sealer, alter: Callable[[list[IndexedFrame]], list[IndexedFrame]]) -> None:
        super().__init__(sealer)
        self._alter = alter

    def encode(self, frame: FrameId, raw: bytes | bytearray | memoryview) -> Encoded:
        if frame.kind is Kind.INDEX:
            index = msgspec.msgpack.decode(raw, type=SegmentIndex)
            raw = msgspec.msgpack.encode(SegmentIndex(FORMAT, index.segment, self._alter(index.frames)))
        return super().encode(frame, raw)


class _Log:
    """It does not mean to carry on, but for the segments it has."""

    def __init__(self) -> None:
        self.complete: dict[int, SegmentRef] = {}

    def segment_begun(self, segment: int, upload: str) -> None: ...
    def part_made(self, segment: int, part: Part, crc: str) -> None: ...

    def segment_stored(self, ref: SegmentRef) -> None:
        self.complete[ref.number] = ref


def context_of(two: Two) -> config.Context:
    url, creds = two.here["NATS_URL"], Path(two.here["NATS_CREDS"])
    return config.Context(name="hostile", nats_url=url, nats_creds=creds, user="local")


def sealed(codec: Codec, sealer: Sealer, made: Made) -> tuple[Frame, bytes]:
    """The encoded frame, and the digest of what it holds."""
    if isinstance(made, Raw):
        data = sealer.seal(PURPOSE[made.id.kind], made.id.index, made.plain)
        return Frame(made.id, data), digest_of(made.plain)
    encoded = codec.encode(*made)
    return encoded.frame, encoded.digest


def store(
    two: Two,
    segments: Sequence[Sequence[Made]],
    *,
    size: int | None = None,
    alter: Callable[[list[IndexedFrame]], list[IndexedFrame]] | None = None,
) -> str:
    """Put each list of frames into a segment of its own and say that the job is stored. Returns the ticket."""
    ticket = Ticket.new()
    sealer = Sealer(ticket)
    codec = Lie(sealer, alter) if alter else Codec(sealer)

    async def put() -> None:
        async with connected(context_of(two), "hostile", Patience(10)) as (_, broker):
            await broker.create(
                api.Create(job=ticket.job, token_hash=sealer.token_hash(), size=size, expire=3600.0)
            )
            digests: dict[FrameId, bytes] = {}
            log = _Log()
            for frames in segments:
                left = Remains(dict(log.complete), [], set())
                outbound = S3Outbound(
                    broker,
                    ticket.job,
                    codec,
                    digests,
                    log,
                    patience=broker.patience,
                    total=None,
                    remains=left,
                )
                try:
                    for made in frames:
                        frame, digests[made[0]] = sealed(codec, sealer, made)
                        await outbound.put(frame)
                    await outbound.finish()
                finally:
                    await outbound.close()
            await broker.finish(ticket.job, api.JobState.STORED, len(log.complete))

    asyncio.run(put())
    return str(ticket)


def block(entries: Sequence[Entry], head: Head | None = None) -> tuple[FrameId, bytes]:
    """A manifest of one block; its head is right unless another is given."""
    total = sum(e.size or 0 for e in entries)
    right = Head(FORMAT, MIB, total, len(entries), 1)
    return BLOCK, msgspec.msgpack.encode(ManifestBlock(head or right, list(entries)))


def trailer(total: int, first: tuple[FrameId, bytes], pieces: Iterable[bytes]) -> tuple[FrameId, bytes]:
    """The right trailer for a manifest of one block and these chunks."""
    digests = [digest_of(piece) for piece in pieces]
    return TRAILER, chunks.encode_trailer(
        total, len(digests), chunks.root_digest([digest_of(first[1])], digests)
    )


def file(path: bytes, size: int | None = 0) -> Entry:
    return Entry(path, EntryKind.FILE, size, 0o644, 0)


def link(path: bytes, target: bytes) -> Entry:
    return Entry(path, EntryKind.LINK, 0, 0o777, 0, target)


def folder(path: bytes) -> Entry:
    return Entry(path, EntryKind.DIRECTORY, 0, 0o755, 0)


def chunk(index: int, raw: bytes) -> tuple[FrameId, bytes]:
    return FrameId(Kind.CHUNK, index), raw
