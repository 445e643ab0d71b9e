"""Raw bytes to an encoded frame and back: compress where it helps, digest, seal.

Inside the seal: codec (1 byte: 0 as is, 1 zstd) · raw length (4 bytes, big-endian) · BLAKE3 digest
of the raw bytes (32 bytes) · body. Every call is pure and releases the GIL in its heavy parts, so
callers run many in threads.
"""

from __future__ import annotations

import mmap
import struct
import threading
from typing import NamedTuple

import zstandard
from blake3 import blake3

from transfer.buffers import Buffers
from transfer.errors import DamagedData
from transfer.model import Bytes, Frame, FrameId, Kind
from transfer.seal import OVERHEAD, Purpose, Sealer

HEADER = struct.Struct(">BI32s")
AS_IS, ZSTD = 0, 1
SAMPLE, SAMPLES = 1 << 14, 4
"""A longer body is judged by so many samples of so many bytes, spread over it: a tar holds all kinds side by side."""
WORTH = 0.95
"""Compressed bytes are used below this share of the raw ones: above it, decoding costs more than it saves."""
AUTO_LEVEL = 3

MAX_RAW = {
    Kind.MANIFEST: 64 << 20,
    Kind.CHUNK: 16 << 20,
    Kind.TRAILER: 4096,
    Kind.INDEX: 1 << 16,
}
"""Bytes a frame may hold raw. Checked before memory is taken for what a peer states."""

PURPOSE = {
    Kind.MANIFEST: Purpose.MANIFEST,
    Kind.CHUNK: Purpose.CHUNK,
    Kind.TRAILER: Purpose.TRAILER,
    Kind.INDEX: Purpose.INDEX,
}

MAX_WINDOW = MAX_RAW[Kind.CHUNK]
"""Bytes that zstd may keep besides what it unpacks, where it cannot do that in one go: a frame that was cut short."""
_local = threading.local()


class Encoded(NamedTuple):
    """An encoded frame, with what the ledger and the trailer need to know of it."""

    frame: Frame
    raw_length: int
    digest: bytes


class Decoded(NamedTuple):
    """raw: a view of the room it was decoded in, good until that is used again."""

    raw: memoryview
    digest: bytes


class Room:
    """Memory for the plaintext of one frame, used again and again by one thread: a header, then the raw bytes.

    The raw bytes begin at a page's start, as direct I/O wants it. size: raw bytes, at most.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._view = memoryview(mmap.mmap(-1, mmap.PAGESIZE + max(1, size)))

    def plain(self, length: int) -> memoryview:
        """Header and that many bytes."""
        return self._view[mmap.PAGESIZE - HEADER.size : mmap.PAGESIZE + length]

    def raw(self, length: int) -> memoryview:
        return self._view[mmap.PAGESIZE : mmap.PAGESIZE + length]


class Rooms:
    """What one thread needs to decode one frame at a time."""

    def __init__(self, size: int) -> None:
        self.opened, self.unpacked = Room(size), Room(size)


def room(size: int) -> Room:
    """This thread's own, to encode in."""
    rooms: dict[int, Room] = _local.__dict__.setdefault("rooms", {})
    if size not in rooms:
        rooms[size] = Room(size)
    return rooms[size]


def max_encoded(kind: Kind) -> int:
    """Bytes that an encoded frame of this kind can have at most."""
    return MAX_RAW[kind] + HEADER.size + OVERHEAD


def digest_of(raw: Bytes) -> bytes:
    """BLAKE3, 32 bytes."""
    return blake3(raw).digest()


class Codec:
    """Encodes and decodes one job's frames.

    compress: `auto` (where samples shrink, at a level that suits the route), `off`, or a zstd level from 1 to 19.
    """

    def __init__(self, sealer: Sealer, compress: str | int = "auto") -> None:
        self._sealer, self._buffers = sealer, Buffers()
        self.adapts = compress == "auto"
        """Whether `level` may be changed as the transfer goes."""
        self.level = 0 if compress == "off" else AUTO_LEVEL if compress == "auto" else int(compress)
        """zstd's; 0 does not compress."""

    def encode(self, frame: FrameId, raw: Bytes) -> Encoded:
        own = Room(len(raw))
        own.raw(len(raw))[:] = raw
        return self.encode_in(own, frame, len(raw))

    def encode_in(self, room: Room, frame: FrameId, length: int) -> Encoded:
        """As `encode`; the raw bytes lie in the room. They are sealed from there, without a copy."""
        raw, plain = room.raw(length), room.plain(length)
        codec = AS_IS
        level = self.level
        if level and raw and (length <= SAMPLE * SAMPLES or _shrinks(raw)):
            packed = _compressor(level).compress(raw)
            if len(packed) < WORTH * length:
                codec = ZSTD
        digest = digest_of(raw)
        if codec == ZSTD:
            plain = room.plain(len(packed))
            plain[HEADER.size :] = packed
        HEADER.pack_into(plain, 0, codec, length, digest)
        data = self._buffers.take(len(plain) + OVERHEAD)
        self._sealer.seal_into(PURPOSE[frame.kind], frame.index, plain, data)
        return Encoded(Frame(frame, data), length, digest)

    def decode(self, frame: Frame, expected: int | None = None) -> Decoded:
        """Open, decompress and verify, in memory of its own.

        Args:
            expected: the raw length in bytes if it is known beforehand.
        Raises:
            DamagedData: altered, cut, of another length than stated or expected, or a bomb.
        """
        return self.decode_in(None, frame, expected)

    def decode_in(self, rooms: Rooms | None, frame: Frame, expected: int | None = None) -> Decoded:
        """As `decode`, in the rooms of the thread that calls; a frame that does not fit them is damaged."""
        kind, index = frame.id
        where = f"{kind.name.lower()} {index}"
        body = len(frame.data) - OVERHEAD - HEADER.size
        if body < 0:
            raise DamagedData(f"{where} is shorter than its own header")
        if rooms is not None and body > rooms.opened.size:
            raise DamagedData(f"{where} is longer than frames of this transfer are")
        plain = (Room(body) if rooms is None else rooms.opened).plain(body)
        self._sealer.open_into(PURPOSE[kind], index, frame.data, plain)
        codec, length, digest = HEADER.unpack_from(plain)
        packed = plain[HEADER.size :]
        if length > MAX_RAW[kind] or expected not in (None, length):
            raise DamagedData(f"{where} claims {length} bytes, which cannot be")
        if codec == ZSTD:
            place = Room(length) if rooms is None or length > rooms.unpacked.size else rooms.unpacked
            raw = place.raw(length)
            _decompress(packed, raw, where)
        elif codec == AS_IS:
            raw = packed
        else:
            raise DamagedData(f"{where} is compressed in a way this xfer does not know")
        if len(raw) != length or digest_of(raw) != digest:
            raise DamagedData(f"{where} does not match its digest")
        return Decoded(raw, digest)


def _shrinks(raw: memoryview) -> bool:
    step = (len(raw) - SAMPLE) // (SAMPLES - 1)
    samples = [raw[at * step : at * step + SAMPLE] for at in range(SAMPLES)]
    packed = sum(len(_compressor(1).compress(sample)) for sample in samples)
    return packed < WORTH * SAMPLE * SAMPLES


def _compressor(level: int) -> zstandard.ZstdCompressor:
    """One a thread and level: a zstd context must not be shared between threads."""
    cache: dict[int, zstandard.ZstdCompressor] = _local.__dict__.setdefault("compressors", {})
    if level not in cache:
        cache[level] = zstandard.ZstdCompressor(level=level, write_content_size=True)
    return cache[level]


def _decompress(body: memoryview, raw: memoryview, where: str) -> None:
    """Fill `raw` with what the body holds. Raises DamagedData if that is less, more or not one frame alone."""
    try:
        if "decompressor" not in _local.__dict__:
            _local.decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
        with _local.decompressor.stream_reader(body, read_across_frames=True, closefd=False) as reader:
            whole = zstandard.frame_content_size(body) == len(raw) == reader.readinto(raw)
            if not whole or reader.read(1):
                raise DamagedData(f"{where} would decompress to another length than it states")
    except zstandard.ZstdError:
        raise DamagedData(f"{where} does not decompress") from None
