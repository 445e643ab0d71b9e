"""The format, pinned: bytes made once (tests/vectors/format.json) are read, and made, the same for ever.

A test that fails here means that tickets, stored jobs and peers of released versions would no longer be
understood. What has to change gets a new format version, and these vectors stay.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from transfer import wire
from transfer.chunks import (
    encode_trailer,
    make_manifest,
    manifest_blocks,
    read_block,
    read_trailer,
    root_digest,
)
from transfer.codec import AS_IS, PURPOSE, ZSTD, Codec, digest_of
from transfer.errors import DamagedData
from transfer.model import (
    FORMAT,
    Entry,
    EntryKind,
    Frame,
    FrameId,
    Head,
    IndexedFrame,
    Kind,
    ReceiptBody,
    SegmentIndex,
    SegmentRef,
    Trailer,
)
from transfer.seal import NONCE, Purpose, Sealer, Suite
from transfer.ticket import RoomTicket, Ticket

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "format.json").read_text())
TICKET = Ticket(VECTORS["ticket"]["job"], bytes.fromhex(VECTORS["ticket"]["secret"]))
ROOT = bytes.fromhex(VECTORS["root"]["digest"])
DIGESTS = [bytes.fromhex(d) for d in VECTORS["digests"]["blake3"]]
CIPHERS: dict[str, Callable[[bytes], AESGCM | ChaCha20Poly1305]] = {
    "AES_256_GCM": AESGCM,
    "CHACHA20_POLY1305": ChaCha20Poly1305,
}


def entry_of(vector: dict[str, Any]) -> Entry:
    """By field name: a swap of two fields changes the format, though no call by position would notice."""
    return Entry(
        path=bytes.fromhex(vector["path"]),
        kind=EntryKind[vector["kind"].upper()],
        size=vector["size"],
        mode=vector["mode"],
        mtime=vector["mtime"],
        target=bytes.fromhex(vector["target"]),
    )


def name(vector: dict[str, Any]) -> str:
    return " ".join(
        str(vector[key]) for key in ("suite", "kind", "direction", "purpose", "codec") if key in vector
    )


def key_of(purpose: str, suite: str) -> bytes:
    [vector] = [v for v in VECTORS["keys"] if (v["purpose"], v["suite"]) == (purpose, suite)]
    return bytes.fromhex(vector["key"])


def same_nonce(monkeypatch: pytest.MonkeyPatch, sealed: bytes) -> None:
    monkeypatch.setattr("transfer.seal.os.urandom", lambda _size: sealed[1 : 1 + NONCE])


def test_the_format_version_is_the_one_these_vectors_are_of() -> None:
    assert VECTORS["format"] == FORMAT


def test_a_tickets_text() -> None:
    assert str(TICKET) == VECTORS["ticket"]["text"]
    assert Ticket.parse(VECTORS["ticket"]["text"]) == TICKET
    room = RoomTicket(TICKET.id, TICKET.secret)
    assert str(room) == VECTORS["room_ticket"]
    assert RoomTicket.parse(VECTORS["room_ticket"]) == room


def test_the_token_and_what_the_broker_stores_of_it() -> None:
    assert Sealer(TICKET).token() == VECTORS["token"]
    assert Sealer(TICKET).token_hash() == VECTORS["token_hash"]
    assert hashlib.sha256(VECTORS["token"].encode()).hexdigest() == VECTORS["token_hash"]


@pytest.mark.parametrize("vector", VECTORS["keys"], ids=name)
def test_a_key_is_hkdf_sha256_of_the_secret(vector: dict[str, Any]) -> None:
    suite = Suite[vector["suite"]]
    info = f"xfer/1/{vector['purpose']}/{int(suite)}".encode()
    by_hand = HKDF(SHA256(), 32, salt=TICKET.job.encode(), info=info).derive(TICKET.secret)
    assert by_hand.hex() == vector["key"]
    assert Sealer(TICKET)._derive(Purpose(vector["purpose"]), suite, 32) == by_hand


def test_every_purpose_and_suite_has_a_pinned_key() -> None:
    pinned = {(v["purpose"], v["suite"]) for v in VECTORS["keys"]}
    assert pinned == {(p.value, s.name) for p in Purpose if p is not Purpose.TOKEN for s in Suite}


@pytest.mark.parametrize("vector", VECTORS["frames"], ids=name)
def test_a_sealed_frame_opens(vector: dict[str, Any]) -> None:
    frame = FrameId(Kind[vector["kind"].upper()], vector["index"])
    sealed, raw = bytes.fromhex(vector["sealed"]), bytes.fromhex(vector["raw"])
    assert Codec(Sealer(TICKET)).decode(Frame(frame, sealed), len(raw)) == (raw, blake3(raw).digest())
    with pytest.raises(DamagedData):
        Codec(Sealer(TICKET)).decode(Frame(frame, sealed[:-1] + bytes([sealed[-1] ^ 1])))


@pytest.mark.parametrize("vector", VECTORS["frames"], ids=name)
def test_a_sealed_frame_is_laid_out_as_it_is_written_down(vector: dict[str, Any]) -> None:
    """suite · nonce · AEAD of (codec · raw length · BLAKE3 · body), bound to all that names the frame."""
    sealed, raw, suite = bytes.fromhex(vector["sealed"]), bytes.fromhex(vector["raw"]), Suite[vector["suite"]]
    assert sealed[0] == suite
    bound = f"xfer/1/{int(suite)}/{vector['kind']}/{TICKET.job}/{vector['index']}".encode()
    cipher = CIPHERS[vector["suite"]](key_of(vector["kind"], vector["suite"]))
    plain = cipher.decrypt(sealed[1 : 1 + NONCE], sealed[1 + NONCE :], bound)
    assert plain[0] == (ZSTD if vector["codec"] == "zstd" else AS_IS)
    assert plain[1:5] == len(raw).to_bytes(4, "big")
    assert plain[5:37] == blake3(raw).digest()
    assert vector["codec"] == "zstd" or plain[37:] == raw


@pytest.mark.parametrize("vector", [v for v in VECTORS["frames"] if v["codec"] == "as is"], ids=name)
def test_the_same_frame_is_sealed_to_the_same_bytes(
    vector: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed = bytes.fromhex(vector["sealed"])
    same_nonce(monkeypatch, sealed)
    frame = FrameId(Kind[vector["kind"].upper()], vector["index"])
    codec = Codec(Sealer(TICKET, Suite[vector["suite"]]), "off")
    assert codec.encode(frame, bytes.fromhex(vector["raw"])).frame.data == sealed


def test_there_is_a_frame_of_every_kind_in_both_suites() -> None:
    pinned = {(v["suite"], v["kind"]) for v in VECTORS["frames"]}
    assert pinned == {(s.name, k.name.lower()) for s in Suite for k in Kind}
    assert {k.name.lower(): p.value for k, p in PURPOSE.items()} == {
        k.name.lower(): k.name.lower() for k in Kind
    }


@pytest.mark.parametrize("vector", VECTORS["signals"], ids=name)
def test_a_sealed_signal_opens_and_is_sealed_to_the_same_bytes(
    vector: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    direction, sealed = Purpose(vector["direction"]), bytes.fromhex(vector["sealed"])
    expected: dict[Purpose, wire.AnySignal] = {
        Purpose.TO_SENDER: wire.Hello(
            session=bytes(range(16)), seq=3, user="rita", receiver="0123456789abcdef", routes=["webrtc"]
        ),
        Purpose.TO_RECEIVER: wire.SegmentStored(
            session=bytes(range(16)), seq=4, ref=SegmentRef(number=7, size=8_400_000, index=190)
        ),
    }
    signal = expected[direction]
    assert wire.open_signal(Sealer(TICKET), direction, sealed) == signal
    assert msgspec.msgpack.encode(signal).hex() == vector["plain"]
    same_nonce(monkeypatch, sealed)
    assert wire.seal_signal(Sealer(TICKET, Suite[vector["suite"]]), direction, signal) == sealed


@pytest.mark.parametrize("which", ["manifest", "stream_manifest"])
def test_a_manifest_block(which: str) -> None:
    vector = VECTORS[which]
    manifest = make_manifest([entry_of(e) for e in vector["entries"]])
    assert (manifest.head.chunk_size, manifest.total) == (vector["chunk_size"], vector["total"])
    assert [raw.hex() for raw in manifest_blocks(manifest)] == [vector["block"]]
    block = read_block(bytes.fromhex(vector["block"]), 0)
    assert (block.head, block.entries) == (manifest.head, manifest.entries)
    assert manifest.head == Head(
        version=1,
        chunk_size=vector["chunk_size"],
        total=vector["total"],
        entries=len(vector["entries"]),
        blocks=1,
    )


def test_a_digest_is_blake3() -> None:
    assert [digest_of(bytes.fromhex(raw)) for raw in VECTORS["digests"]["of_bytes"]] == DIGESTS


def test_the_root_digest() -> None:
    assert root_digest(DIGESTS[:1], DIGESTS[1:]) == ROOT
    assert blake3(b"xfer/1 root" + DIGESTS[0] + b"chunks" + b"".join(DIGESTS[1:])).digest() == ROOT


def test_a_trailer() -> None:
    vector = VECTORS["trailer"]
    raw = bytes.fromhex(vector["raw"])
    assert encode_trailer(vector["total"], vector["chunks"], ROOT) == raw
    assert read_trailer(raw) == Trailer(
        version=1, total=vector["total"], chunks=vector["chunks"], digest=ROOT
    )


def test_a_segments_index() -> None:
    vector = VECTORS["segment_index"]
    rows = [
        IndexedFrame(kind=Kind[row["kind"].upper()], index=row["index"], length=row["length"], digest=digest)
        for row, digest in zip(vector["rows"], DIGESTS, strict=False)
    ]
    index = SegmentIndex(version=1, segment=vector["segment"], frames=rows)
    assert msgspec.msgpack.encode(index).hex() == vector["raw"]
    assert msgspec.msgpack.decode(bytes.fromhex(vector["raw"]), type=SegmentIndex) == index


def test_a_receipt() -> None:
    vector = VECTORS["receipt"]
    trailer = VECTORS["trailer"]
    body = ReceiptBody(
        version=1, receiver=vector["receiver"], total=trailer["total"], chunks=trailer["chunks"], digest=ROOT
    )
    assert msgspec.msgpack.encode(body).hex() == vector["raw"]
    assert msgspec.msgpack.decode(bytes.fromhex(vector["raw"]), type=ReceiptBody) == body
