"""Raw bytes to an encoded frame and back: compress where it helps, digest, seal.

Inside the seal: codec (1 byte: 0 as is, 1 zstd) · raw length (4 bytes, big-endian) · BLAKE3 digest
of the raw bytes (32 bytes) · body. Every call is pure and releases the GIL in its heavy parts, so
callers run many in threads.
"""

from __future__ import annotations

import struct
import threading
from typing import NamedTuple

import zstandard
from blake3 import blake3

from transfer.errors import DamagedData
from transfer.model import Frame, FrameId, Kind
from transfer.seal import OVERHEAD, Purpose, Sealer

HEADER = struct.Struct(">BI32s")
AS_IS, ZSTD = 0, 1
SAMPLE = 1 << 16
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

_local = threading.local()


class Encoded(NamedTuple):
    """An encoded frame, with what the ledger and the trailer need to know of it."""

    frame: Frame
    raw_length: int
    digest: bytes


class Decoded(NamedTuple):
    raw: bytes
    digest: bytes


def max_encoded(kind: Kind) -> int:
    """Bytes that an encoded frame of this kind can have at most."""
    return MAX_RAW[kind] + HEADER.size + OVERHEAD


def digest_of(raw: bytes | bytearray | memoryview) -> bytes:
    """BLAKE3, 32 bytes."""
    return blake3(raw).digest()


class Codec:
    """Encodes and decodes one job's frames.

    compress: `auto` (zstd level 3 where a sample shrinks), `off`, or a zstd level from 1 to 19.
    """

    def __init__(self, sealer: Sealer, compress: str | int = "auto") -> None:
        self._sealer = sealer
        self._level = 0 if compress == "off" else AUTO_LEVEL if compress == "auto" else int(compress)

    def encode(self, frame: FrameId, raw: bytes | bytearray | memoryview) -> Encoded:
        body: bytes | bytearray | memoryview = raw
        codec = AS_IS
        if self._level and raw and (len(raw) <= SAMPLE or self._shrinks(memoryview(raw)[:SAMPLE])):
            packed = _compressor(self._level).compress(raw)
            if len(packed) < WORTH * len(raw):
                body, codec = packed, ZSTD
        digest = digest_of(raw)
        plain = b"".join((HEADER.pack(codec, len(raw), digest), body))
        data = self._sealer.seal(PURPOSE[frame.kind], frame.index, plain)
        return Encoded(Frame(frame, data), len(raw), digest)

    def decode(self, frame: Frame, expected: int | None = None) -> Decoded:
        """Open, decompress and verify.

        Args:
            expected: the raw length in bytes if it is known beforehand.
        Raises:
            DamagedData: altered, cut, of another length than stated or expected, or a bomb.
        """
        kind, index = frame.id
        plain = self._sealer.open(PURPOSE[kind], index, frame.data)
        where = f"{kind.name.lower()} {index}"
        if len(plain) < HEADER.size:
            raise DamagedData(f"{where} is shorter than its own header")
        codec, length, digest = HEADER.unpack_from(plain)
        body = memoryview(plain)[HEADER.size :]
        if length > MAX_RAW[kind] or expected not in (None, length):
            raise DamagedData(f"{where} claims {length} bytes, which cannot be")
        if codec == ZSTD:
            raw = _decompress(body, length, where)
        elif codec == AS_IS:
            raw = bytes(body)
        else:
            raise DamagedData(f"{where} is compressed in a way this xfer does not know")
        if len(raw) != length or digest_of(raw) != digest:
            raise DamagedData(f"{where} does not match its digest")
        return Decoded(raw, digest)

    def _shrinks(self, sample: memoryview) -> bool:
        return len(_compressor(1).compress(sample)) < WORTH * len(sample)


def _compressor(level: int) -> zstandard.ZstdCompressor:
    """One a thread and level: a zstd context must not be shared between threads."""
    cache: dict[int, zstandard.ZstdCompressor] = _local.__dict__.setdefault("compressors", {})
    if level not in cache:
        cache[level] = zstandard.ZstdCompressor(level=level, write_content_size=True)
    return cache[level]


def _decompress(body: memoryview, length: int, where: str) -> bytes:
    """The frame's own content size is what zstandard allocates, so it is checked first."""
    try:
        if zstandard.frame_content_size(body) != length:
            raise DamagedData(f"{where} would decompress to another length than it states")
        if "decompressor" not in _local.__dict__:
            _local.decompressor = zstandard.ZstdDecompressor()
        raw: bytes = _local.decompressor.decompress(body, max_output_size=length, allow_extra_data=False)
        return raw
    except zstandard.ZstdError:
        raise DamagedData(f"{where} does not decompress") from None
