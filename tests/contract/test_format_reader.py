"""A reader of tickets and segments made from FORMAT.md alone: it imports nothing of ours, and reads what we wrote.

So the document suffices. What this reader does not check, it does not need in order to read.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "format.json").read_text())
SYMBOLS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
KINDS = ["manifest", "chunk", "trailer", "index"]


# --- chapter «Tickets»


def checksum(prefix: str, symbols: list[int]) -> int:
    """Of bech32m, BIP-350: 0x2bc830a3 if the symbols end with their own check."""
    expanded = [ord(c) >> 5 for c in prefix] + [0] + [ord(c) & 31 for c in prefix]
    check = 1
    for value in expanded + symbols:
        top, check = check >> 25, (check & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate([0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3]):
            check ^= generator if top >> bit & 1 else 0
    return check


def opened(ticket: str, prefix: str) -> tuple[str, bytes]:
    """The id and the secret."""
    assert ticket.startswith(f"{prefix}1")
    text = ticket[len(prefix) + 1 :]
    symbols = [SYMBOLS.index(c) for c in text]
    assert len(symbols) == 49
    assert symbols[0] == 0
    assert checksum(prefix, symbols) == 0x2BC830A3
    bits = "".join(f"{symbol:05b}" for symbol in symbols[17:43])
    assert bits[128:] == "00"
    return text[1:17], int(bits[:128], 2).to_bytes(16, "big")


# --- «Keys and seals», «Frames»


def derive(job: str, secret: bytes, purpose: str, suite: int) -> bytes:
    info = f"xfer/1/{purpose}/{suite}".encode()
    return HKDF(SHA256(), 32, salt=job.encode(), info=info).derive(secret)


def unseal(job: str, secret: bytes, purpose: str, index: int, sealed: bytes) -> bytes:
    suite, nonce, rest = sealed[0], sealed[1:13], sealed[13:]
    cipher = {1: AESGCM, 2: ChaCha20Poly1305}[suite](derive(job, secret, purpose, suite))
    return cipher.decrypt(nonce, rest, f"xfer/1/{suite}/{purpose}/{job}/{index}".encode())  # type: ignore[no-any-return]


def frame(job: str, secret: bytes, kind: str, index: int, sealed: bytes) -> bytes:
    """Its raw bytes."""
    plain = unseal(job, secret, kind, index, sealed)
    codec, length, digest = struct.unpack(">BI32s", plain[:37])
    raw = plain[37:] if codec == 0 else zstandard.ZstdDecompressor().decompress(plain[37:])
    assert codec in (0, 1)
    assert len(raw) == length
    assert blake3(raw).digest() == digest
    return raw


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


# --- «Manifest, chunks, trailer», «Segments»


class Reader:
    """All frames of a job that lie in its objects."""

    def __init__(self, ticket: str) -> None:
        self.job, self.secret = opened(ticket, "xfer")
        self.raw: dict[tuple[str, int], bytes] = {}

    def take(self, reference: dict[str, int], stored: bytes) -> None:
        number, size, tail = reference["number"], reference["size"], reference["index"]
        assert len(stored) == size
        version, segment, rows = unpack(frame(self.job, self.secret, "index", number, stored[-tail:]))
        assert (version, segment) == (1, number)
        at = 0
        for kind, index, length, digest in rows:
            name = KINDS[kind]
            raw = frame(self.job, self.secret, name, index, stored[at : at + length])
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
        _, stated, chunks, root = unpack(self.raw["trailer", 0])
        assert stated == total
        assert chunks == -(-total // chunk_size)
        parts = [self.raw["chunk", index] for index in range(chunks)]
        digests = [blake3(self.raw["manifest", block]).digest() for block in range(block_count)]
        whole = b"xfer/1 root" + b"".join(digests) + b"chunks" + b"".join(blake3(p).digest() for p in parts)
        assert blake3(whole).digest() == root
        content = io.BytesIO(b"".join(parts))
        return {entry[0].decode(): content.read(entry[2]) for entry in entries if entry[1] == 0}


def test_the_document_suffices_to_open_a_ticket() -> None:
    ticket = VECTORS["ticket"]
    assert opened(ticket["text"], "xfer") == (ticket["job"], bytes.fromhex(ticket["secret"]))
    assert opened(VECTORS["room_ticket"], "xferroom") == (ticket["job"], bytes.fromhex(ticket["secret"]))
    token = derive(ticket["job"], bytes.fromhex(ticket["secret"]), "token", 0).hex()
    assert token == VECTORS["token"]
    assert hashlib.sha256(token.encode()).hexdigest() == VECTORS["token_hash"]


def test_the_document_suffices_to_read_a_stored_transfer() -> None:
    reader = Reader(VECTORS["ticket"]["text"])
    vector = VECTORS["segments"]
    for one in vector["objects"]:
        reader.take(one["ref"], bytes.fromhex(one["object"]))
    meant = {
        e["path"]: bytes.fromhex(e["repeat"]) * e["times"] for e in vector["entries"] if e["kind"] == "file"
    }
    assert reader.files() == meant
    assert sum(map(len, meant.values())) == vector["total"] > 1 << 20, "more than one chunk"


def test_the_document_suffices_to_read_receipts_signals_and_rooms() -> None:
    job, secret = opened(VECTORS["ticket"]["text"], "xfer")
    for receipt in VECTORS["sealed_receipts"]:
        plain = unseal(job, secret, "receipt", 0, bytes.fromhex(receipt["sealed"]))
        version, receiver, *facts = unpack(plain)
        assert (version, receiver) == (1, VECTORS["receipt"]["receiver"])
        assert facts == [*unpack(bytes.fromhex(VECTORS["trailer"]["raw"]))[1:]]
    for signal in VECTORS["signals"]:
        said = unpack(unseal(job, secret, signal["direction"], 0, bytes.fromhex(signal["sealed"])))
        assert (said["v"], said["session"]) == (1, bytes(range(16)))
    room = VECTORS["room"]
    name = unseal(
        *opened(VECTORS["room_ticket"], "xferroom"), "room name", 0, bytes.fromhex(room["sealed_name"])
    )
    assert name.decode() == room["name"]
    item = unseal(
        *opened(VECTORS["room_ticket"], "xferroom"), "room item", 0, bytes.fromhex(room["sealed_item"])
    )
    version, ticket, names, more, files, size, host, sent = unpack(item)
    assert version == 1
    assert opened(ticket, "xfer") == (job, secret)
    assert [one.hex() for one in names] == room["item"]["names"]
    assert [more, files, size, host, sent] == [
        room["item"][k] for k in ("more", "files", "size", "host", "sent")
    ]


def test_a_reader_of_the_document_notices_what_was_altered() -> None:
    """In each byte of an object: every one of them is under a seal, or is a seal."""
    one = VECTORS["segments"]["objects"][1]
    stored = bytearray.fromhex(one["object"])
    reader = Reader(VECTORS["ticket"]["text"])
    for at in range(0, len(stored), 7):
        stored[at] ^= 1
        with pytest.raises((InvalidTag, KeyError)):  # KeyError: of a suite that does not exist
            reader.take(one["ref"], bytes(stored))
        stored[at] ^= 1
