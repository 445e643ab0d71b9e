"""FORMAT.md is what this program does: its names, numbers and refusals, and the vectors beside the older ones.

`tests/unit/test_vectors.py` holds the sealed and raw forms of the first vectors; here are those of whole segments, rooms,
the channel, signals, the broker's API and invites. No value of a vector ever changes: what has to gets a new version.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from typing import Any, get_args

import msgspec
import pytest
from format_doc import DOCUMENT, ROOM, TICKET, VECTORS, api_lines, block, opened_item, table, verbs

from transfer import api, bus, wire
from transfer.announce import Announcement
from transfer.chunks import Manifest, read_block, read_trailer, root_digest
from transfer.codec import HEADER, MAX_RAW, Codec
from transfer.invite import Invite
from transfer.model import (
    Entry,
    Frame,
    FrameId,
    FrameSet,
    Head,
    IndexedFrame,
    Kind,
    ReceiptBody,
    SegmentRef,
    Trailer,
)
from transfer.room import Item
from transfer.sctp.packet import Init, pack_init, unpack_init
from transfer.seal import NONCE, OVERHEAD, Purpose, Sealer, Suite
from transfer.ticket import RoomTicket, Ticket
from transfer.transports.s3.inbound import read_index

SESSION = bytes(range(16))


def same_nonce(monkeypatch: pytest.MonkeyPatch, sealed: bytes) -> None:
    monkeypatch.setattr("transfer.seal.os.urandom", lambda _size: sealed[1 : 1 + NONCE])


def sealed_as(sealed: bytes, purpose: Purpose, ticket: Ticket | RoomTicket) -> bytes:
    """What is in it, sealed again: with the same nonce it must come to the same bytes."""
    sealer = Sealer(ticket, Suite(sealed[0]))
    return bytes(sealer.seal(purpose, 0, sealer.open(purpose, 0, sealed)))


# --- vectors


def in_hex(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list | tuple):
        return [in_hex(one) for one in value]
    return {key: in_hex(one) for key, one in value.items()} if isinstance(value, dict) else value


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
