"""Another implementation of the format, made from transfer/FORMAT.md alone: it imports nothing of ours.

What it can do shows that the document suffices; what it leaves out (most checks) one does not need in order to read and write.
"""

from __future__ import annotations

import io
import os
import secrets
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SYMBOLS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
KINDS = ["manifest", "chunk", "trailer", "index"]
CIPHERS: dict[int, Callable[[bytes], AESGCM | ChaCha20Poly1305]] = {1: AESGCM, 2: ChaCha20Poly1305}
MIB = 1 << 20


# --- «Tickets»


class Secret(NamedTuple):
    """Of a job or a room."""

    id: str
    secret: bytes

    @classmethod
    def new(cls) -> Secret:
        return cls("".join(secrets.choice(SYMBOLS) for _ in range(16)), secrets.token_bytes(16))


def read_ticket(ticket: str, prefix: str = "xfer") -> Secret:
    assert ticket.startswith(f"{prefix}1")
    text = ticket[len(prefix) + 1 :]
    symbols = [SYMBOLS.index(c) for c in text]
    assert (len(symbols), symbols[0]) == (49, 0)
    assert _polymod(prefix, symbols) == 0x2BC830A3
    bits = "".join(f"{symbol:05b}" for symbol in symbols[17:43])
    assert bits[128:] == "00"
    return Secret(text[1:17], int(bits[:128], 2).to_bytes(16, "big"))


def write_ticket(of: Secret, prefix: str = "xfer") -> str:
    bits = f"{int.from_bytes(of.secret, 'big'):0128b}00"
    body = [0, *map(SYMBOLS.index, of.id), *(int(bits[at : at + 5], 2) for at in range(0, 130, 5))]
    check = _polymod(prefix, [*body, 0, 0, 0, 0, 0, 0]) ^ 0x2BC830A3
    return f"{prefix}1" + "".join(SYMBOLS[s] for s in body + [check >> 5 * k & 31 for k in range(5, -1, -1)])


def _polymod(prefix: str, symbols: list[int]) -> int:
    """Of bech32m, BIP-350."""
    expanded = [ord(c) >> 5 for c in prefix] + [0] + [ord(c) & 31 for c in prefix]
    check = 1
    for value in expanded + symbols:
        top, check = check >> 25, (check & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate([0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3]):
            check ^= generator if top >> bit & 1 else 0
    return check


# --- «Keys and seals», «Frames»


def derive(of: Secret, purpose: str, suite: int) -> bytes:
    info = f"xfer/1/{purpose}/{suite}".encode()
    return HKDF(SHA256(), 32, salt=of.id.encode(), info=info).derive(of.secret)


def token(of: Secret) -> str:
    return derive(of, "token", 0).hex()


def unseal(of: Secret, purpose: str, index: int, sealed: bytes) -> bytes:
    suite, nonce, rest = sealed[0], sealed[1:13], sealed[13:]
    cipher = CIPHERS[suite](derive(of, purpose, suite))
    return cipher.decrypt(nonce, rest, f"xfer/1/{suite}/{purpose}/{of.id}/{index}".encode())


def seal(of: Secret, purpose: str, index: int, plain: bytes, suite: int = 2) -> bytes:
    nonce = os.urandom(12)
    cipher = CIPHERS[suite](derive(of, purpose, suite))
    bound = f"xfer/1/{suite}/{purpose}/{of.id}/{index}".encode()
    return bytes([suite]) + nonce + cipher.encrypt(nonce, plain, bound)


def open_frame(of: Secret, kind: str, index: int, sealed: bytes) -> bytes:
    """Its raw bytes."""
    plain = unseal(of, kind, index, sealed)
    codec, length, digest = struct.unpack(">BI32s", plain[:37])
    raw = plain[37:] if codec == 0 else zstandard.ZstdDecompressor().decompress(plain[37:])
    assert codec in (0, 1)
    assert len(raw) == length
    assert blake3(raw).digest() == digest
    return raw


def make_frame(of: Secret, kind: str, index: int, raw: bytes) -> bytes:
    packed = zstandard.ZstdCompressor(write_content_size=True).compress(raw)
    body = (1, packed) if len(packed) < len(raw) else (0, raw)
    return seal(of, kind, index, struct.pack(">BI32s", body[0], len(raw), blake3(raw).digest()) + body[1])


# --- msgpack, as much of it as is used


def unpack(data: bytes) -> Any:
    stream = io.BytesIO(data)
    value = _value(stream)
    assert not stream.read()
    return value


def _value(stream: io.BytesIO) -> Any:
    first = stream.read(1)[0]
    if first < 0x80 or first >= 0xE0:
        return first if first < 0x80 else first - 256
    if first < 0x90:
        return {_value(stream): _value(stream) for _ in range(first & 15)}
    if first < 0xA0:
        return [_value(stream) for _ in range(first & 15)]
    if first < 0xC0:
        return stream.read(first & 31).decode()
    if first == 0xC0:
        return None
    form = {0xC4: ">B", 0xC5: ">H", 0xC6: ">I", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"}
    form |= {0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q", 0xD9: ">B", 0xDA: ">H", 0xDC: ">H"}
    [number] = struct.unpack(form[first], stream.read(struct.calcsize(form[first])))
    if first in (0xC4, 0xC5, 0xC6):
        return stream.read(number)
    if first in (0xD9, 0xDA):
        return stream.read(number).decode()
    return [_value(stream) for _ in range(number)] if first == 0xDC else number


def pack(value: Any) -> bytes:
    if value is None:
        return b"\xc0"
    if isinstance(value, int):
        return b"\xd3" + struct.pack(">q", value)
    if isinstance(value, bytes):
        return b"\xc6" + struct.pack(">I", len(value)) + value
    if isinstance(value, str):
        return b"\xda" + struct.pack(">H", len(value.encode())) + value.encode()
    if isinstance(value, dict):
        assert len(value) < 16
        return bytes([0x80 + len(value)]) + b"".join(pack(k) + pack(v) for k, v in value.items())
    return b"\xdc" + struct.pack(">H", len(value)) + b"".join(map(pack, value))


# --- «Manifest, chunks, trailer», «Segments»


class Reader:
    """All frames of a job that lie in its objects."""

    def __init__(self, of: Secret) -> None:
        self.of = of
        self.raw: dict[tuple[str, int], bytes] = {}

    def take(self, reference: dict[str, int], stored: bytes) -> None:
        number, size, tail = reference["number"], reference["size"], reference["index"]
        assert len(stored) == size
        version, segment, rows = unpack(open_frame(self.of, "index", number, stored[-tail:]))
        assert (version, segment) == (1, number)
        at = 0
        for kind, index, length, digest in rows:
            name = KINDS[kind]
            raw = open_frame(self.of, name, index, stored[at : at + length])
            assert blake3(raw).digest() == digest
            self.raw[name, index] = raw
            at += length
        assert at == size - tail

    def files(self) -> dict[str, bytes]:
        """Whole, or it is an error."""
        blocks = [unpack(self.raw["manifest", 0])]
        version, chunk_size, total, count, block_count = blocks[0][0]
        blocks += [unpack(self.raw["manifest", block]) for block in range(1, block_count)]
        entries = [entry for _, block in blocks for entry in block]
        assert (version, len(entries)) == (1, count)
        _, stated, chunks, root = self.trailer
        assert (stated, chunks) == (total, -(-total // chunk_size))
        parts = [self.raw["chunk", index] for index in range(chunks)]
        assert root == root_of([self.raw["manifest", block] for block in range(block_count)], parts)
        content = io.BytesIO(b"".join(parts))
        return {entry[0].decode(): content.read(entry[2]) for entry in entries if entry[1] == 0}

    @property
    def trailer(self) -> list[Any]:
        found: list[Any] = unpack(self.raw["trailer", 0])
        return found

    def receipt(self, receiver: str) -> bytes:
        """Sealed."""
        _, total, chunks, root = self.trailer
        return seal(self.of, "receipt", 0, pack([1, receiver, total, chunks, root]))


def root_of(blocks: Sequence[bytes], chunks: Sequence[bytes]) -> bytes:
    digests = [b"".join(blake3(raw).digest() for raw in raws) for raws in (blocks, chunks)]
    return blake3(b"xfer/1 root" + digests[0] + b"chunks" + digests[1]).digest()


def frames_of(name: str, content: bytes) -> dict[tuple[int, int], bytes]:
    """The raw frames of a job that is one file: (kind, index) to bytes."""
    assert 0 < len(content) <= 100_000_000
    entry = [name.encode(), 0, len(content), 0o644, 1_700_000_000_000_000_000, b""]
    block = pack([[1, MIB, len(content), 1, 1], [entry]])
    chunks = [content[at : at + MIB] for at in range(0, len(content), MIB)]
    trailer = pack([1, len(content), len(chunks), root_of([block], chunks)])
    return {(0, 0): block, **{(1, index): raw for index, raw in enumerate(chunks)}, (2, 0): trailer}


def segment_of(of: Secret, number: int, frames: dict[tuple[int, int], bytes]) -> tuple[bytes, int]:
    """The object, and the length of the index at its tail."""
    made = {(kind, index): make_frame(of, KINDS[kind], index, raw) for (kind, index), raw in frames.items()}
    rows = [[*frame, len(data), blake3(frames[frame]).digest()] for frame, data in made.items()]
    index = make_frame(of, "index", number, pack([1, number, rows]))
    return b"".join(made.values()) + index, len(index)
