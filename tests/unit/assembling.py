"""What the tests of Assembly share: a job's frames, and a receiver that takes them from routes."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from transfer.assembly import Assembly
from transfer.chunks import CHUNK_SIZES, encode_trailer, make_manifest, manifest_blocks, root_digest
from transfer.codec import Codec, digest_of
from transfer.events import Event
from transfer.folder_sink import FolderSink
from transfer.ledger import JobRow, Ledger
from transfer.meter import Meter
from transfer.model import TRAILER, Entry, EntryKind, Frame, FrameId, Kind
from transfer.seal import Sealer
from transfer.ticket import Ticket

JOB = "q" * 16
CODEC = Codec(Sealer(Ticket(JOB, bytes(16))))
CHUNK, STREAM_CHUNK = CHUNK_SIZES[0], CHUNK_SIZES[1]
SOON = 20.0
FIRST = FrameId(Kind.MANIFEST, 0)
FILES = {
    b"a": random.Random(5).randbytes(2 * CHUNK + 11),
    b"d/empty": b"",
    b"d/b": b"b" * (3 * CHUNK),
    b"z": b"the end",
}
"""Six chunks; chunks 2 and 5 hold the bytes of two files."""


def chunk(index: int) -> FrameId:
    return FrameId(Kind.CHUNK, index)


def encode(frame: FrameId, raw: bytes) -> Frame:
    return CODEC.encode(frame, raw).frame


def trailer(total: int, digests: Sequence[bytes], blocks: Sequence[bytes | memoryview]) -> Frame:
    root = root_digest([digest_of(b) for b in blocks], digests)
    return encode(TRAILER, encode_trailer(total, len(digests), root))


def frames_of(entries: list[Entry], raws: list[bytes]) -> dict[FrameId, Frame]:
    """All frames of a job, in order; raws: of its chunks."""
    blocks = list(manifest_blocks(make_manifest(entries)))
    made = {FrameId(Kind.MANIFEST, n): encode(FrameId(Kind.MANIFEST, n), raw) for n, raw in enumerate(blocks)}
    made |= {chunk(n): encode(chunk(n), raw) for n, raw in enumerate(raws)}
    made[TRAILER] = trailer(sum(map(len, raws)), [digest_of(raw) for raw in raws], blocks)
    return made


def job(files: dict[bytes, bytes]) -> dict[FrameId, Frame]:
    entries = [Entry(b"d", EntryKind.DIRECTORY, 0, 0o755, 0)] if any(b"/" in p for p in files) else []
    entries += [Entry(p, EntryKind.FILE, len(raw), 0o644, 10**18) for p, raw in files.items()]
    whole = b"".join(files.values())
    return frames_of(entries, [whole[at : at + CHUNK] for at in range(0, len(whole), CHUNK)])


def stream(lengths: Sequence[int]) -> dict[FrameId, Frame]:
    """A stream whose chunks have these lengths, honest or not."""
    raws = [bytes([n + 1]) * length for n, length in enumerate(lengths)]
    return frames_of([Entry(b"s", EntryKind.FILE, None, 0o644, 0)], raws)


WHOLE = job(FILES)
IN_ORDER = list(WHOLE.values())


async def feed(frames: Iterable[Frame]) -> AsyncGenerator[Frame, None]:
    for frame in frames:
        yield frame


async def hear_nothing(_frames: Sequence[FrameId]) -> None:
    """For those who do not wait for acks."""


class Receiver:
    """A real sink and a real ledger around one assembly; `again` is the next run after a kill."""

    def __init__(self, folder: Path, state: bytes = b"") -> None:
        self.folder, self.out = folder, folder / "out"
        self.out.mkdir(exist_ok=True)
        self.ledger = Ledger(folder / "ledger.db")
        self.row: JobRow = self.ledger.add("fetch", JOB, b"key", b"secret")
        resumed = FolderSink.resume(state, self.out, job=JOB) if state else None
        self.sink = resumed or FolderSink(self.out, job=JOB)
        self.events: list[Event] = []
        self.meter = Meter(self._hear, clock=map(float, itertools.count()).__next__)  # tells of every chunk
        self._news = asyncio.Event()
        self.begun = 0
        self.assembly = Assembly(CODEC, self.sink, self.meter, self.ledger, self.row, self._begin)
        self.acked: list[FrameId] = []

    def _begin(self) -> None:
        self.begun += 1

    def _hear(self, event: Event) -> None:
        self.events.append(event)
        self._news.set()

    async def ack(self, frames: Sequence[FrameId]) -> None:
        self.acked += frames
        self._news.set()

    async def take(self, frames: Iterable[Frame]) -> None:
        await self.assembly.consume(feed(frames), self.ack)

    async def take_one_by_one(self, frames: Iterable[Frame]) -> None:
        """In this very order: `take` works on several at once."""
        for frame in frames:
            await self.take([frame])

    async def news(self) -> None:
        """Returns when something is told or acknowledged."""
        self._news.clear()
        await asyncio.wait_for(self._news.wait(), SOON)

    async def written(self, done: int) -> None:
        """Returns once that many bytes are in the sink."""
        while self.meter.done < done:
            await self.news()

    def complete(self) -> bool:
        return self.assembly.complete.is_set()

    def files(self) -> dict[bytes, bytes]:
        """What is under its final name."""
        self.sink.publish()
        found = (p for p in self.out.rglob("*") if p.is_file() and ".xfer-" not in str(p))
        return {p.relative_to(self.out).as_posix().encode(): p.read_bytes() for p in found}

    def nothing_published(self) -> bool:
        return all(p.name.startswith(".xfer-") for p in self.out.iterdir())

    def on_disk(self, name: str) -> Path:
        """A file in the staging folder."""
        return next(p for p in self.out.glob(f".xfer-*/tree/{name}"))

    def close(self) -> None:
        self.assembly.close()
        self.sink.close()
        self.ledger.close()

    def again(self) -> Receiver:
        state = self.sink.state()
        self.close()
        return Receiver(self.folder, state)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with closing(Receiver(tmp_path)) as made:
        yield made


TOTAL = sum(map(len, FILES.values()))
