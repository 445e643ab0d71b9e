"""FORMAT.md suffices: `another`, an implementation made from it alone, reads what ours wrote down once for all."""

from __future__ import annotations

import ast
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag

from tests import another
from tests.another import Reader, Secret, read_ticket, unpack, unseal, write_ticket

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "format.json").read_text())
JOB = read_ticket(VECTORS["ticket"]["text"])
ROOM = read_ticket(VECTORS["room_ticket"], "xferroom")


def test_it_has_nothing_of_ours() -> None:
    tree = ast.parse(Path(another.__file__).read_text(encoding="utf-8"))
    names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names += [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
    assert names
    assert not {name.split(".")[0] for name in names} & {"transfer", "cli", "msgspec"}


def test_the_document_suffices_to_open_a_ticket_and_to_make_one() -> None:
    ticket = VECTORS["ticket"]
    assert JOB == ROOM == Secret(ticket["job"], bytes.fromhex(ticket["secret"]))
    assert write_ticket(JOB) == ticket["text"]
    assert write_ticket(ROOM, "xferroom") == VECTORS["room_ticket"]
    assert another.token(JOB) == VECTORS["token"]
    assert hashlib.sha256(another.token(JOB).encode()).hexdigest() == VECTORS["token_hash"]


def test_the_document_suffices_to_read_a_stored_transfer() -> None:
    reader = Reader(JOB)
    vector = VECTORS["segments"]
    for one in vector["objects"]:
        reader.take(one["ref"], bytes.fromhex(one["object"]))
    files = [entry for entry in vector["entries"] if entry["kind"] == "file"]
    meant = {entry["path"]: bytes.fromhex(entry["repeat"]) * entry["times"] for entry in files}
    assert reader.files() == meant
    assert sum(map(len, meant.values())) == vector["total"] > 1 << 20, "more than one chunk"


def test_the_document_suffices_to_read_receipts_signals_and_rooms() -> None:
    """With the ticket alone: whoever has it may read, and pose as, any other holder."""
    for receipt in VECTORS["sealed_receipts"]:
        version, receiver, *facts = unpack(unseal(JOB, "receipt", 0, bytes.fromhex(receipt["sealed"])))
        assert (version, receiver) == (1, VECTORS["receipt"]["receiver"])
        assert facts == unpack(bytes.fromhex(VECTORS["trailer"]["raw"]))[1:]
    for signal in VECTORS["signals"]:
        said = unpack(unseal(JOB, signal["direction"], 0, bytes.fromhex(signal["sealed"])))
        assert (said["v"], said["session"]) == (1, bytes(range(16)))
    room, item = VECTORS["room"], VECTORS["room"]["item"]
    assert unseal(ROOM, "room name", 0, bytes.fromhex(room["sealed_name"])).decode() == room["name"]
    version, ticket, names, *facts = unpack(unseal(ROOM, "room item", 0, bytes.fromhex(room["sealed_item"])))
    assert (version, read_ticket(ticket)) == (1, JOB)
    assert [name.hex() for name in names] == item["names"]
    assert facts == [item[field] for field in ("more", "files", "size", "host", "sent")]


def test_a_reader_of_the_document_notices_what_was_altered() -> None:
    """Wherever it is in an object: all of it is under a seal, or is a seal."""
    one = VECTORS["segments"]["objects"][1]
    stored = bytearray.fromhex(one["object"])
    for at in range(0, len(stored), 7):
        stored[at] ^= 1
        with pytest.raises((InvalidTag, KeyError)):  # KeyError: of a suite that does not exist
            Reader(JOB).take(one["ref"], bytes(stored))
        stored[at] ^= 1
