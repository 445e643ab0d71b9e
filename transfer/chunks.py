"""How a job's bytes are cut: the entries laid end to end, in chunks of one size; and the manifest's blocks."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec
from blake3 import blake3

from transfer.errors import ProtocolError, UnsupportedVersion
from transfer.model import (
    FORMAT,
    INDEX_LIMIT,
    MAX_BLOCKS,
    MAX_ENTRIES,
    MAX_ENTRIES_IN_BLOCK,
    MAX_FILE,
    MAX_PATH,
    Entry,
    EntryKind,
    Head,
    ManifestBlock,
    Trailer,
)

MIB = 1 << 20
CHUNK_SIZES = (1 * MIB, 4 * MIB, 16 * MIB)
SMALL_JOB = 100_000_000
LARGE_JOB = 1_000_000_000_000


def chunk_size_for(total: int | None) -> int:
    """1 MiB up to 100 MB, 4 MiB up to 1 TB and for unknown lengths, 16 MiB above. Bytes."""
    if total is None:
        return CHUNK_SIZES[1]
    return CHUNK_SIZES[0] if total <= SMALL_JOB else CHUNK_SIZES[1] if total <= LARGE_JOB else CHUNK_SIZES[2]


class Extent(NamedTuple):
    """A run of bytes of one entry: entry is its place in the manifest, start and length are bytes."""

    entry: int
    start: int
    length: int


class Manifest:
    """All entries and where each one's bytes lie in the chunks. Immutable.

    For a stream of unknown length (one file entry, size None) the chunk count is unknown until
    the trailer says it; `extents` then answers for any index.
    """

    def __init__(self, head: Head, entries: Sequence[Entry]) -> None:
        """Raises ProtocolError or UnsupportedVersion for what cannot be a manifest."""
        if head.version != FORMAT:
            raise UnsupportedVersion("that transfer was made by a newer xfer")
        if head.chunk_size not in CHUNK_SIZES:
            raise ProtocolError("the manifest states an impossible chunk size")
        if len(entries) != head.entries:
            raise ProtocolError("the manifest does not hold as many entries as it states")
        self.head = head
        self.entries = entries
        self._starts: list[int] = []
        self._files: list[int] = []
        at = 0
        for number, entry in enumerate(entries):
            _check_entry(entry)
            if entry.size is None and (head.total is not None or len(entries) != 1):
                raise ProtocolError("the manifest has an entry of unknown length in the wrong place")
            if entry.kind is EntryKind.FILE and entry.size != 0:
                self._starts.append(at)
                self._files.append(number)
                at += entry.size or 0
        if head.total is None and (len(entries) != 1 or entries[0].size is not None):
            raise ProtocolError("the manifest states no total though its entries do")
        if head.total is not None and at != head.total:
            raise ProtocolError("the manifest's total does not match its entries")
        if at > INDEX_LIMIT * head.chunk_size:
            raise ProtocolError("the manifest states more bytes than a job can hold")
        self._end = at

    @property
    def total(self) -> int | None:
        return self.head.total

    @property
    def chunks(self) -> int | None:
        """How many chunks; None while unknown."""
        return None if self.total is None else -(-self.total // self.head.chunk_size)

    @property
    def files(self) -> int:
        return sum(e.kind is EntryKind.FILE for e in self.entries)

    @property
    def filled(self) -> int:
        """How many files are not empty."""
        return len(self._files)

    def chunk_length(self, index: int) -> int | None:
        """Raw bytes of a chunk; None for a stream of unknown length. Raises ProtocolError past the end."""
        if self.total is None:
            return None
        length = min(self.head.chunk_size, self.total - index * self.head.chunk_size)
        if length <= 0:
            raise ProtocolError(f"there is no chunk {index} in this job")
        return length

    def extents(self, index: int, length: int | None = None) -> list[Extent]:
        """Where the bytes of a chunk lie, in order. length: needed where chunk_length is None."""
        begin = index * self.head.chunk_size
        if self.total is None:
            return [Extent(0, begin, length or 0)]
        end = begin + (self.chunk_length(index) or 0)
        found = []
        at = bisect_right(self._starts, begin) - 1
        while begin < end:
            start = self._starts[at]
            stop = self._starts[at + 1] if at + 1 < len(self._starts) else self._end
            upto = min(stop, end)
            found.append(Extent(self._files[at], begin - start, upto - begin))
            begin, at = upto, at + 1
        return found

    def shares(self, index: int) -> tuple[int, list[Extent]]:
        """What a chunk holds of its files: how many whole, and the bytes of the (at most two) that reach beyond it.

        Logarithmic in the files, however many lie in it. Raises ProtocolError past the end, and for a stream.
        """
        length = self.chunk_length(index)
        if length is None:
            raise ProtocolError("a stream has no known end that a chunk could reach")
        begin = index * self.head.chunk_size
        end = begin + length
        first, last = bisect_right(self._starts, begin) - 1, bisect_left(self._starts, end) - 1
        whole, torn = last - first + 1, []
        for at in sorted({first, last}):
            start = self._starts[at]
            stop = self._starts[at + 1] if at + 1 < len(self._starts) else self._end
            if start < begin or end < stop:
                whole -= 1
                held = min(stop, end) - max(start, begin)
                torn.append(Extent(self._files[at], max(start, begin) - start, held))
        return whole, torn


def make_manifest(entries: Sequence[Entry]) -> Manifest:
    """From what a scan found. Sizes are final; a single entry of size None is a stream."""
    sizes = [e.size for e in entries if e.kind is EntryKind.FILE]
    total = None if None in sizes else sum(s for s in sizes if s is not None)
    blocks = max(1, -(-len(entries) // MAX_ENTRIES_IN_BLOCK))
    return Manifest(Head(FORMAT, chunk_size_for(total), total, len(entries), blocks), entries)


def manifest_blocks(manifest: Manifest) -> Iterator[bytes]:
    """The raw bytes of the manifest's frames, in order. The same entries give the same bytes."""
    for block in range(manifest.head.blocks):
        entries = list(manifest.entries[block * MAX_ENTRIES_IN_BLOCK : (block + 1) * MAX_ENTRIES_IN_BLOCK])
        yield msgspec.msgpack.encode(ManifestBlock(manifest.head if block == 0 else None, entries))


def read_block(raw: bytes, index: int) -> ManifestBlock:
    """Raises ProtocolError for what is no manifest block, before a large one is believed."""
    try:
        block = msgspec.msgpack.decode(raw, type=ManifestBlock)
    except (msgspec.DecodeError, msgspec.ValidationError, ValueError, RecursionError):
        raise ProtocolError("the manifest is not readable") from None
    if index >= MAX_BLOCKS or (block.head is None) is (index == 0):
        raise ProtocolError("the manifest is not well formed")
    head = block.head
    if head is not None:
        if head.version != FORMAT:
            raise UnsupportedVersion("that transfer was made by a newer xfer")
        wanted = max(1, -(-head.entries // MAX_ENTRIES_IN_BLOCK))
        if not 0 <= head.entries <= MAX_ENTRIES or head.blocks != wanted:
            raise ProtocolError("the manifest states an impossible number of entries")
    return block


def root_digest(blocks: Iterable[bytes], chunks: Iterable[bytes]) -> bytes:
    """BLAKE3 over the digests of all manifest blocks, then of all chunks, each 32 bytes, in order."""
    hasher = blake3(b"xfer/%d root" % FORMAT)
    for digest in blocks:
        hasher.update(digest)
    hasher.update(b"chunks")
    for digest in chunks:
        hasher.update(digest)
    return hasher.digest()


def encode_trailer(total: int, chunks: int, digest: bytes) -> bytes:
    return msgspec.msgpack.encode(Trailer(FORMAT, total, chunks, digest))


def read_trailer(raw: bytes) -> Trailer:
    """Raises ProtocolError or UnsupportedVersion."""
    try:
        trailer = msgspec.msgpack.decode(raw, type=Trailer)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError):
        raise ProtocolError("the trailer is not readable") from None
    if trailer.version != FORMAT:
        raise UnsupportedVersion("that transfer was made by a newer xfer")
    if not 0 <= trailer.chunks <= INDEX_LIMIT or trailer.total < 0 or len(trailer.digest) != 32:
        raise ProtocolError("the trailer states impossible totals")
    return trailer


def _check_entry(entry: Entry) -> None:
    size = entry.size
    if size is not None and not 0 <= size <= MAX_FILE:
        raise ProtocolError("the manifest states an impossible file size")
    if entry.kind is not EntryKind.FILE and size != 0:
        raise ProtocolError("the manifest gives bytes to something that is no file")
    if not 0 < len(entry.path) <= MAX_PATH or len(entry.target) > MAX_PATH:
        raise ProtocolError("the manifest has a name of impossible length")
    if not -(1 << 63) <= entry.mtime < 1 << 63:
        raise ProtocolError("the manifest states an impossible time")
