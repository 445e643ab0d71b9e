"""What FORMAT.md says of versions: how a reader of version 1 refuses another one, and what it passes over."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from blake3 import blake3
from format_doc import ROOM, TICKET, VECTORS, opened_item, table

from transfer import api, errors, wire
from transfer.bech32m import ALPHABET, CHECK_SYMBOLS, check_of
from transfer.broker.job import Refusal
from transfer.broker.service import Service
from transfer.broker.table import verb
from transfer.broker_client import BrokerClient, Patience
from transfer.chunks import read_block, read_trailer
from transfer.codec import HEADER, Codec
from transfer.errors import DamagedData, UnsupportedVersion, XferError
from transfer.invite import Invite
from transfer.model import (
    Frame,
    FrameId,
    Kind,
    ManifestBlock,
    ReceiptBody,
    SegmentRef,
)
from transfer.receivers import Receivers
from transfer.seal import Purpose, Sealer, Suite
from transfer.ticket import RoomTicket, Ticket
from transfer.transports.s3.inbound import read_index
from transfer.watch import _read as read_announcement

SESSION = bytes(range(16))


def text_of_version_1(prefix: str, text: str) -> str:
    """The same ticket or invite, but for its version symbol and its check."""
    body = [1, *map(ALPHABET.index, text[len(prefix) + 2 : -CHECK_SYMBOLS])]
    return f"{prefix}1" + "".join(ALPHABET[symbol] for symbol in body + check_of(prefix, body))


def array_of(raw: str, at: Sequence[int], version: int, *more: object) -> bytes:
    """A msgpack array with another version at that place, and more elements behind the last."""
    value = msgspec.msgpack.decode(bytes.fromhex(raw))
    inner = value
    for step in at:
        inner = inner[step]
    inner[0] = version
    inner += more
    return msgspec.msgpack.encode(value)


def of_frame(codec: int = 0, purpose: Purpose = Purpose.CHUNK, suite: int = 1) -> bytes:
    """A chunk that says so of itself."""
    plain = HEADER.pack(codec, 3, blake3(b"abc").digest()) + b"abc"
    sealed = Sealer(TICKET, Suite.AES_256_GCM).seal(purpose, 0, plain)
    sealed[0] = suite
    return bytes(sealed)


def read_chunk(data: bytes) -> None:
    Codec(Sealer(TICKET)).decode(Frame(FrameId(Kind.CHUNK, 0), data))


def read_index_of(raw: bytes) -> None:
    codec = Codec(Sealer(TICKET), "off")
    sealed = bytes(codec.encode(FrameId(Kind.INDEX, 7), raw).frame.data)
    rows = sum(row["length"] for row in VECTORS["segment_index"]["rows"])
    read_index(codec, SegmentRef(7, rows + len(sealed), len(sealed)), sealed)


def read_item(raw: bytes) -> None:
    opened_item(bytes(Sealer(ROOM).seal(Purpose.ROOM_ITEM, 0, raw)))


def read_signal(**fields: Any) -> None:
    plain = msgspec.msgpack.encode(
        {"t": "store", "v": 1, "session": SESSION, "seq": 0, "segments": 1, **fields}
    )
    sealed = bytes(Sealer(TICKET).seal(Purpose.TO_RECEIVER, 0, plain))
    wire.open_signal(Sealer(TICKET), Purpose.TO_RECEIVER, sealed)


def read_of_another_format(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as other:
        other.setattr("transfer.seal.FORMAT", 2)
        sealed = of_frame()
    read_chunk(sealed)


def read_answer(body: bytes) -> None:
    """Of a broker, to `info`."""

    class Bus:
        is_connected = True

        async def request(self, *_args: object, **_options: object) -> SimpleNamespace:
            return SimpleNamespace(data=body, headers=None)

    client: Any = Bus()
    asyncio.run(BrokerClient(client, "ann", Patience(0.0)).info())


async def refused(body: bytes) -> api.ErrorCode:
    async def handler(_user: str, _request: api.Info) -> api.BrokerInfo:
        raise AssertionError

    with pytest.raises(Refusal) as told:
        await verb(api.Info, handler)("ann", body)
    return told.value.error.code


INDEX = VECTORS["segment_index"]["raw"]
ITEM = VECTORS["room"]["raw_item"]
BLOCK = VECTORS["manifest"]["block"]
TRAILER = VECTORS["trailer"]["raw"]

REFUSALS: dict[str, Callable[[pytest.MonkeyPatch], object]] = {
    "ticket": lambda _: Ticket.parse(text_of_version_1("xfer", VECTORS["ticket"]["text"])),
    "room's ticket": lambda _: RoomTicket.parse(text_of_version_1("xferroom", VECTORS["room_ticket"])),
    "invite": lambda _: Invite.parse(text_of_version_1("xferjoin", VECTORS["invite"]["text"])),
    "suite of a seal": lambda _: read_chunk(of_frame(suite=3)),
    "keys and associated data": read_of_another_format,
    "codec of a frame": lambda _: read_chunk(of_frame(codec=2)),
    "manifest": lambda _: read_block(array_of(BLOCK, [0], 2), 0),
    "trailer": lambda _: read_trailer(array_of(TRAILER, [], 2)),
    "index of a segment": lambda _: read_index_of(array_of(INDEX, [], 2)),
    "signal": lambda _: read_signal(v=2),
    "message on the channel": lambda _: wire.unpack(b"\x07"),
    "answer that lacks a field": lambda _: read_answer(b'{"version": "9"}'),
    "item of a room": lambda _: read_item(array_of(ITEM, [], 2)),
}
ELSEWHERE = {"receipt", "request", "verb", "announcement"}
"""Where nothing is raised to whoever reads; see the tests below."""


@pytest.mark.parametrize("row", table("## Versions"), ids=lambda row: row[0])
def test_another_version_is_refused_as_the_document_says(
    row: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if row[0] in ELSEWHERE:
        return
    with pytest.raises(XferError) as told:
        REFUSALS[row[0]](monkeypatch)
    assert type(told.value).__name__ == re.findall(r"[A-Z]\w+", row[2])[0]


def test_each_line_about_versions_is_shown() -> None:
    assert {row[0] for row in table("## Versions")} == {*REFUSALS} | ELSEWHERE
    assert (UnsupportedVersion.code, DamagedData.code, errors.ProtocolError.code) == (1, 6, 6)
    assert "upgrade" in UnsupportedVersion.hint


async def test_a_receipt_of_another_version_does_not_count() -> None:
    told: list[object] = []
    root = bytes.fromhex(VECTORS["root"]["digest"])
    for version, counts in ((2, 0), (1, 1)):
        body = array_of(VECTORS["receipt"]["raw"], [], version)
        sealed = base64.b64encode(Sealer(TICKET).seal(Purpose.RECEIPT, 0, body)).decode()
        nobody: Any = None
        receivers = Receivers(nobody, nobody, Sealer(TICKET), lambda: root, nobody, told.append)
        receivers.recall([sealed])
        assert len(receivers.receipts) == len(told) == counts


async def test_a_broker_knows_a_verb_or_says_that_it_does_not() -> None:
    nobody: Any = None
    with pytest.raises(Refusal) as told:
        await Service(nobody, {}, version="0")._asked("ann", "dance", b"{}")
    assert told.value.error.code is api.ErrorCode.VERSION


async def test_a_broker_refuses_requests_of_another_version_by_name() -> None:
    assert await refused(b'{"v": 2, "of": "another shape"}') is api.ErrorCode.VERSION


def test_announcements_of_another_version_are_read_or_passed_over() -> None:
    later = msgspec.json.decode(VECTORS["announcement"]) | {"v": 2, "more": 1}
    said = read_announcement(msgspec.json.encode(later))
    assert said is not None
    assert said.done == later["done"]
    assert read_announcement(msgspec.json.encode({"v": 2})) is None


def test_what_is_added_within_a_version_is_passed_over() -> None:
    """In arrays at the end, in maps and objects by new names."""
    read_index_of(array_of(INDEX, [], 1, "more"))
    read_item(array_of(ITEM, [], 1, "more"))
    read_signal(more="more")
    assert read_trailer(array_of(TRAILER, [], 1, "more")).version == 1
    head = msgspec.msgpack.decode(array_of(BLOCK, [0], 1, "more"), type=ManifestBlock).head
    assert head is not None
    body = array_of(VECTORS["receipt"]["raw"], [], 1, "more")
    assert msgspec.msgpack.decode(body, type=ReceiptBody).receiver == VECTORS["receipt"]["receiver"]
    for kind, text in (
        (api.Create, VECTORS["api"][0]["request"]),
        (api.Created, VECTORS["api"][0]["answer"]),
    ):
        msgspec.json.decode(text.replace("{", '{"more":1,', 1), type=kind)
