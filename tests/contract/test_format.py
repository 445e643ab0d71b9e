"""FORMAT.md is what this program does: its names, numbers and refusals, and the vectors beside the older ones.

`tests/unit/test_vectors.py` holds the sealed and raw forms of the first vectors; here are those of whole segments, rooms,
the channel, signals, the broker's API and invites. No value of a vector ever changes: what has to gets a new version.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import re
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, get_args

import msgspec
import pytest
from blake3 import blake3
from format_doc import DOCUMENT, VECTORS, api_lines, block, table, verbs

from transfer import api, bus, errors, wire
from transfer.announce import Announcement
from transfer.bech32m import ALPHABET, CHECK_SYMBOLS, check_of
from transfer.broker.job import Refusal
from transfer.broker.service import Service
from transfer.broker.table import verb
from transfer.broker_client import BrokerClient, Patience
from transfer.chunks import Manifest, read_block, read_trailer, root_digest
from transfer.codec import HEADER, MAX_RAW, Codec
from transfer.errors import DamagedData, UnsupportedVersion, XferError
from transfer.invite import Invite
from transfer.model import (
    Entry,
    Frame,
    FrameId,
    FrameSet,
    Head,
    IndexedFrame,
    Kind,
    ManifestBlock,
    ReceiptBody,
    SegmentRef,
    Trailer,
)
from transfer.receivers import Receivers
from transfer.room import Item, Member
from transfer.room_names import Room
from transfer.rooms_api import RoomItem
from transfer.sctp.packet import Init, pack_init, unpack_init
from transfer.seal import NONCE, OVERHEAD, Purpose, Sealer, Suite
from transfer.ticket import RoomTicket, Ticket
from transfer.transports.s3.inbound import read_index
from transfer.watch import _read as read_announcement

TICKET = Ticket.parse(VECTORS["ticket"]["text"])
ROOM = RoomTicket.parse(VECTORS["room_ticket"])
SESSION = bytes(range(16))


def same_nonce(monkeypatch: pytest.MonkeyPatch, sealed: bytes) -> None:
    monkeypatch.setattr("transfer.seal.os.urandom", lambda _size: sealed[1 : 1 + NONCE])


def sealed_as(sealed: bytes, purpose: Purpose, ticket: Ticket | RoomTicket) -> bytes:
    """What is in it, sealed again: with the same nonce it must come to the same bytes."""
    sealer = Sealer(ticket, Suite(sealed[0]))
    return bytes(sealer.seal(purpose, 0, sealer.open(purpose, 0, sealed)))


# --- vectors


def test_every_vector_is_named_in_the_document_and_the_reverse() -> None:
    named = re.findall(r"`(\w+)`", " ".join(re.findall(r"^Vectors: (.*)$", DOCUMENT, re.MULTILINE)))
    assert sorted({*named} - {"repeat", "times"}) == sorted({*VECTORS} - {"about", "format"})


def test_a_whole_transfer_in_segments() -> None:
    vector = VECTORS["segments"]
    raw: dict[FrameId, bytes] = {}
    digests: dict[FrameId, bytes] = {}
    for one in vector["objects"]:
        ref, stored = SegmentRef(**one["ref"]), bytes.fromhex(one["object"])
        codec = Codec(Sealer(TICKET))
        assert (len(stored), stored[0]) == (ref.size, Suite[one["suite"]])
        at = 0
        for row in read_index(codec, ref, stored[-ref.index :]):
            frame = FrameId(row.kind, row.index)
            found = codec.decode(Frame(frame, stored[at : at + row.length]))
            raw[frame], digests[frame] = bytes(found.raw), found.digest
            assert found.digest == row.digest
            at += row.length
    block = read_block(raw[FrameId(Kind.MANIFEST, 0)], 0)
    assert block.head is not None
    manifest = Manifest(block.head, block.entries)
    trailer = read_trailer(raw[FrameId(Kind.TRAILER, 0)])
    assert (
        (manifest.total, manifest.chunks)
        == (trailer.total, trailer.chunks)
        == (vector["total"], vector["chunks"])
    )
    chunks = [FrameId(Kind.CHUNK, index) for index in range(trailer.chunks)]
    root = root_digest([digests[FrameId(Kind.MANIFEST, 0)]], [digests[chunk] for chunk in chunks])
    assert trailer.digest == root == bytes.fromhex(vector["root"])
    content = b"".join(raw[chunk] for chunk in chunks)
    assert content == b"".join(
        bytes.fromhex(e.get("repeat", "")) * e.get("times", 0) for e in vector["entries"]
    )
    assert [entry.path.decode() for entry in block.entries] == [entry["path"] for entry in vector["entries"]]


@pytest.mark.parametrize("vector", VECTORS["sealed_receipts"], ids=lambda vector: vector["suite"])
def test_a_sealed_receipt(vector: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = bytes.fromhex(vector["sealed"])
    assert Sealer(TICKET).open(Purpose.RECEIPT, 0, sealed).hex() == VECTORS["receipt"]["raw"]
    same_nonce(monkeypatch, sealed)
    assert sealed_as(sealed, Purpose.RECEIPT, TICKET) == sealed


def test_a_rooms_name_and_item(monkeypatch: pytest.MonkeyPatch) -> None:
    vector = VECTORS["room"]
    fields = vector["item"]
    names = [bytes.fromhex(name) for name in fields["names"]]
    item = Item(**{**fields, "v": 1, "names": names})
    assert msgspec.msgpack.encode(item).hex() == vector["raw_item"]
    name, posted = bytes.fromhex(vector["sealed_name"]), bytes.fromhex(vector["sealed_item"])
    assert Sealer(ROOM).open(Purpose.ROOM_NAME, 0, name) == vector["name"].encode()
    assert Sealer(ROOM).open(Purpose.ROOM_ITEM, 0, posted).hex() == vector["raw_item"]
    assert opened_item(posted) == item
    for sealed, purpose in ((name, Purpose.ROOM_NAME), (posted, Purpose.ROOM_ITEM)):
        same_nonce(monkeypatch, sealed)
        assert sealed_as(sealed, purpose, ROOM) == sealed


def test_messages_on_the_channel() -> None:
    for vector in VECTORS["channel"]:
        message = message_of(vector)
        assert wire.pack(message).hex() == vector["bytes"]
        assert wire.unpack(bytes.fromhex(vector["bytes"])) == message


def message_of(vector: dict[str, Any]) -> wire.Message:
    match vector["message"]:
        case "want":
            return wire.Want(FrameSet(tuple(row) for row in vector["ranges"]))
        case "data":
            frame = FrameId(Kind[vector["kind"].upper()], vector["index"])
            return wire.Data(frame, vector["total"], vector["offset"], bytes.fromhex(vector["piece"]))
        case "ack":
            return wire.Ack(tuple(FrameId(Kind[kind.upper()], index) for kind, index in vector["frames"]))
        case "close":
            return wire.Close(vector["reason"])
    return wire.End() if vector["message"] == "end" else wire.Ping()


def test_signals_of_each_kind() -> None:
    for vector in VECTORS["signal_kinds"]:
        plain, direction = bytes.fromhex(vector["plain"]), Purpose(vector["direction"])
        signal = wire.open_signal(Sealer(TICKET), direction, bytes(Sealer(TICKET).seal(direction, 0, plain)))
        assert msgspec.msgpack.encode(signal) == plain
        assert (signal.session, signal.seq) == (SESSION, vector["fields"]["seq"])
        assert in_hex(msgspec.msgpack.decode(plain)) == vector["fields"]


def test_there_is_a_vector_of_every_kind_of_signal_and_of_message() -> None:
    kinds = {kind.__struct_config__.tag for kind in get_args(wire.AnySignal)}
    assert {vector["fields"]["t"] for vector in VECTORS["signal_kinds"]} == kinds
    messages = {kind.__name__.lower() for kind in get_args(wire.Message)}
    assert {vector["message"] for vector in VECTORS["channel"]} == messages


def test_an_init_of_sctp() -> None:
    vector = dict(VECTORS["sctp_init"])
    raw = bytes.fromhex(vector.pop("bytes"))
    assert pack_init(Init(**vector)) == raw
    assert unpack_init(raw) == Init(**vector)


def test_requests_and_answers_of_every_verb() -> None:
    known = verbs()
    assert {vector["verb"] for vector in VECTORS["api"]} == {*known}
    for vector in VECTORS["api"]:
        for text, kind in zip((vector["request"], vector["answer"]), known[vector["verb"]], strict=True):
            assert msgspec.json.encode(msgspec.json.decode(text, type=kind)).decode() == text, vector["verb"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("api_error", api.ApiError), ("announcement", Announcement), ("nudge", api.Nudge)],
)
def test_what_brokers_and_senders_tell(name: str, kind: type[msgspec.Struct]) -> None:
    assert msgspec.json.encode(msgspec.json.decode(VECTORS[name], type=kind)).decode() == VECTORS[name]


def test_an_invite() -> None:
    vector = dict(VECTORS["invite"])
    text = vector.pop("text")
    invite = Invite(**{**vector, "ca": bytes.fromhex(vector["ca"])})
    assert str(invite) == text
    assert Invite.parse(text) == invite


# --- the document


def test_the_api_is_the_one_of_the_document() -> None:
    def entries(lines: Sequence[str]) -> dict[str, str]:
        return dict(
            line.split(":", 1) for line in "\n".join(lines).replace("\n    ->", " ->").split("\n") if line
        )

    assert entries(block("## The bus")) == entries(api_lines())


def test_the_bounds_are_those_of_the_document() -> None:
    for cell, value, _ in table("## Bounds"):
        module, name = cell.strip("`").rsplit(".", 1)
        if module.endswith(".MAX_RAW"):
            bound = MAX_RAW[Kind[name]]
        else:
            bound = getattr(importlib.import_module(f"transfer.{module}"), name)
        assert bound == int(value.replace(",", "")), cell


def test_states_and_codes_are_those_of_the_document() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ((?:`\w+`(?:, )?)*) ?\|$", DOCUMENT, re.MULTILINE)
    follows = {state: {*re.findall(r"\w+", cell)} for state, cell in rows}
    law = {state.value: {after.value for after in then} for state, then in api.TRANSITIONS.items()}
    assert {state: follows[state] for state in law} == law
    below = DOCUMENT[DOCUMENT.index("| code | when |") :].split("\n\n", 1)[0]
    codes = {code for row in below.splitlines()[2:] for code in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert codes == {code.value for code in api.ErrorCode}


def test_purposes_suites_and_layouts_are_those_of_the_document() -> None:
    purposes = {
        purpose for row in table("## Keys and seals") for purpose in re.findall(r"`([\w ]+)`", row[0])
    }
    assert purposes | {"token"} == {purpose.value for purpose in Purpose}
    assert {int(suite) for suite in Suite} == {1, 2}
    assert (OVERHEAD, HEADER.size) == (29, 37)
    for line, kind in (
        ("head:  [version, chunk_size, total, entries, blocks]", Head),
        ("entry: [path, kind, size, mode, mtime, target]", Entry),
        ("row:   [kind, index, length, digest]", IndexedFrame),
        ("trailer** is a msgpack array `[version, total, chunks, digest]", Trailer),
        ("receipt: [version, receiver, total, chunks, digest]", ReceiptBody),
        ("item: [version, ticket, names, more, files, size, host, sent]", Item),
    ):
        assert line in DOCUMENT
        names = [field.name for field in msgspec.structs.fields(kind)]
        assert ["version" if name == "v" else name for name in names] == re.findall(
            r"\w+", line.split("[")[1]
        )
    [line] = re.findall(r"^event: v, .*$", DOCUMENT, re.MULTILINE)
    assert [field.name for field in msgspec.structs.fields(Announcement)] == re.findall(r"\w+", line)[1:]
    said = "description: [ufrag, password, candidates, fingerprints, setup, init, max_message, max_packet]"
    assert said in DOCUMENT
    fields = [field.name for field in msgspec.structs.fields(wire.Description)]
    assert fields == re.findall(r"\w+", said)[1:]


def test_signals_have_the_fields_of_the_document() -> None:
    stated = {row[0].strip("`"): {*re.findall(r"`(\w+)`", row[2])} for row in table("## Signals")}
    for kind in get_args(wire.AnySignal):
        own = {field.name for field in msgspec.structs.fields(kind)} - {"v", "session", "seq"}
        assert own <= stated[str(kind.__struct_config__.tag)], kind
    assert len(stated) == len(get_args(wire.AnySignal))


def test_subjects_are_those_of_the_document() -> None:
    stated = {row[0].strip("`") for row in table("## The bus")}
    made = {
        bus.api_subject("<user>", "<verb>"),
        bus.inbox_prefix("<user>") + ".>",
        bus.peer_subject("<user>", "<job>"),
        bus.control_subject("<user>", "<job>"),
        bus.events_subject("<user>", "<job>"),
    }
    assert stated == made


# --- what a reader says of another version


def in_hex(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list | tuple):
        return [in_hex(one) for one in value]
    return {key: in_hex(one) for key, one in value.items()} if isinstance(value, dict) else value


def opened_item(sealed: bytes) -> Item:
    """As a member reads it from the broker's answer."""
    line = RoomItem(
        number=1,
        job=TICKET.job,
        sealed=base64.b64encode(sealed).decode(),
        user="ann",
        posted=0.0,
        expires=1.0,
    )
    member = Member.__new__(Member)
    member._sealer, member.room = Sealer(ROOM), Room(name="", ticket=ROOM, context="")
    posted = member._posted(line)
    if posted.wrong is not None:
        raise posted.wrong
    assert posted.item is not None
    return posted.item


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
