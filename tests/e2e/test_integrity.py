"""One bit that flips, in the store, on disk or in the source: caught, and mended or refused with 6."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from helpers import MIB, Two, complaint

from tests.orphans import objects_of, s3
from transfer.model import Kind

if TYPE_CHECKING:
    from tests.conftest import Servers

SIZE = 20 * MIB


class Kept(NamedTuple):
    """A transfer that lies in the store. objects: key to bytes, in the order of the segments."""

    source: Path
    ticket: str
    objects: dict[str, bytes]


class Vault:
    """The store, as its operator has it at hand."""

    def __init__(self, two: Two, servers: Servers) -> None:
        self._two, self._servers, self._bucket = two, servers, servers.bucket
        self._client: Any = s3(servers)

    def keep(self, name: str, size: int = SIZE) -> Kept:
        source = self._two.file(name, size)
        sent = self._two.send("--wait", "0", source)
        return Kept(source, sent.ticket, {key: self.read(key) for key in self.keys(sent.summary.job)})

    def keys(self, job: str) -> list[str]:
        return objects_of(self._servers, job)

    def read(self, key: str) -> bytes:
        body: bytes = self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        return body

    def write(self, key: str, body: bytes) -> None:
        self._client.put_object(Bucket=self._bucket, Key=key, Body=body)


@pytest.fixture
def vault(two: Two, servers: Servers) -> Vault:
    return Vault(two, servers)


def flipped(data: bytes, at: int) -> bytes:
    """One bit of the byte at that place, from the end if negative."""
    changed = bytearray(data)
    changed[at] ^= 0x10
    return bytes(changed)


def refused(two: Two, ticket: str, **more: object) -> str:
    """Fetch it: exit 6, and nothing under a final name. Returns the kind of the error."""
    said = complaint(two.fetch(ticket, "--patience", "5s", **more))
    assert (said.code, two.arrived) == (6, []), said
    return said.kind


def whole(two: Two, source: Path) -> bool:
    return (two.out / source.name).read_bytes() == source.read_bytes() and not two.left_over


def flip_file(path: Path, at: int) -> None:
    """In place, so that the file stays the same one."""
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 0x10]))


def change(home: str, statement: str, *values: object) -> int:
    """Alter the ledger of that home; how many rows it was."""
    ledger = sqlite3.connect(Path(home) / "state" / "ledger.db")
    try:
        with ledger:
            return ledger.execute(statement, values).rowcount
    finally:
        ledger.close()


def until_noted(home: str, chunks: int) -> None:
    """Until the ledger of that home has so many: it hears of them up to a tenth of a second after they are written."""
    deadline = time.monotonic() + 30
    while True:
        ledger = sqlite3.connect(Path(home) / "state" / "ledger.db")
        try:
            (noted,) = ledger.execute("SELECT count(*) FROM frames WHERE kind = ?", (Kind.CHUNK,)).fetchone()
        finally:
            ledger.close()
        if noted >= chunks:
            return
        assert time.monotonic() < deadline, f"{noted} chunks in the ledger"
        time.sleep(0.01)


# --- in the store


def first_object(kept: Kept) -> str:
    return min(kept.objects)


def last_object(kept: Kept) -> str:
    return max(kept.objects)


@pytest.mark.parametrize(
    ("chosen", "place"),
    [
        pytest.param(first_object, lambda data: 40, id="the manifest", marks=pytest.mark.long),
        pytest.param(first_object, lambda data: len(data) // 2, id="a chunk"),
        pytest.param(first_object, lambda data: -200, id="an index", marks=pytest.mark.long),
        pytest.param(first_object, lambda data: -1, id="the last byte of an index", marks=pytest.mark.long),
        pytest.param(last_object, lambda data: len(data) // 2, id="a later chunk", marks=pytest.mark.long),
    ],
)
def test_a_bit_that_flips_in_the_store_is_refused_and_whoever_puts_it_right_can_fetch(
    two: Two, vault: Vault, chosen: Callable[[Kept], str], place: Callable[[bytes], int]
) -> None:
    kept = vault.keep("f")
    assert len(kept.objects) > 1
    key = chosen(kept)
    vault.write(key, flipped(kept.objects[key], place(kept.objects[key])))
    assert refused(two, kept.ticket) == "DamagedData"
    vault.write(key, kept.objects[key])
    assert two.fetch(kept.ticket).code == 0
    assert whole(two, kept.source)


@pytest.mark.long
def test_no_byte_of_a_stored_transfer_can_change_unnoticed(two: Two, vault: Vault) -> None:
    """Every 37th byte of a small one: frames, seals, nonces, index."""
    kept = vault.keep("f", 300)
    ((key, body),) = kept.objects.items()
    places = range(0, len(body), 37)
    assert len(places) > 15
    for at in places:
        vault.write(key, flipped(body, at))
        refused(two, kept.ticket)
    vault.write(key, body)
    assert two.fetch(kept.ticket).code == 0


@pytest.mark.parametrize(
    "share", [pytest.param(0.0, marks=pytest.mark.long), 0.3, pytest.param(0.999, marks=pytest.mark.long)]
)
def test_an_object_that_was_cut_short_is_refused(two: Two, vault: Vault, share: float) -> None:
    kept = vault.keep("f")
    key, body = max(kept.objects.items())
    vault.write(key, body[: int(len(body) * share)])
    refused(two, kept.ticket)


@pytest.mark.long
def test_an_object_that_has_grown_is_refused_or_its_tail_ignored(two: Two, vault: Vault) -> None:
    kept = vault.keep("f")
    key, body = max(kept.objects.items())
    vault.write(key, body + b"more")
    assert two.fetch(kept.ticket).code == 0
    assert whole(two, kept.source)


@pytest.mark.long
def test_segments_that_changed_places_are_refused(two: Two, vault: Vault) -> None:
    kept = vault.keep("f", 40 * MIB)
    (one, first), (other, second), *_ = sorted(kept.objects.items())
    vault.write(one, second)
    vault.write(other, first)
    refused(two, kept.ticket)


def test_a_segment_of_another_job_in_its_place_is_refused(two: Two, vault: Vault) -> None:
    """Of the same bytes even: its keys are others."""
    kept = vault.keep("f")
    source = two.tmp / "elsewhere" / "f"
    source.parent.mkdir()
    os.link(kept.source, source)
    stranger = two.send("--wait", "0", "--no-resume", source)
    for key, other in zip(kept.objects, vault.keys(stranger.summary.job), strict=True):
        assert key != other
        vault.write(key, vault.read(other))
    assert refused(two, kept.ticket) == "DamagedData"


@pytest.mark.long
def test_an_older_segment_put_back_is_refused(two: Two, vault: Vault) -> None:
    """The first object of a job stands where its second one was: the seal says which segment an index is of."""
    kept = vault.keep("f")
    first, second = sorted(kept.objects)[:2]
    vault.write(second, kept.objects[first])
    refused(two, kept.ticket)


# --- on disk


def half_fetched(two: Two) -> tuple[str, bytes, Callable[[], None]]:
    """A fetch that was killed midway. Returns the ticket, what is sent, and what makes the sender end."""
    data = os.urandom(32 * MIB)
    sending = two.stream()
    sending.feed(data[: 28 * MIB])
    first = two.fetch(sending.ticket)
    first.moved(12 * MIB)
    until_noted(two.there["XFER_HOME"], 6)
    first.signal(signal.SIGKILL)
    first.end()

    def finish() -> None:
        sending.feed(data[28 * MIB :])
        sending.hang_up()
        assert sending.code == 0

    return sending.ticket, data, finish


@pytest.mark.long
def test_a_bit_that_flips_in_what_an_unfinished_fetch_wrote_is_fetched_again(two: Two) -> None:
    ticket, data, finish = half_fetched(two)
    for at in (0, 5 * MIB + 77):
        flip_file(two.out / two.left_over[0] / "tree" / "stream", at)
    finish()
    assert two.fetch(ticket).code == 0
    assert (two.out / "stream").read_bytes() == data


@pytest.mark.long
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE frames SET digest = zeroblob(32) WHERE kind = 1",
        "UPDATE frames SET idx = idx + 1000 WHERE kind = 1",
        "UPDATE frames SET digest = zeroblob(32) WHERE kind = 0",
        "UPDATE blocks SET raw = zeroblob(length(raw))",
    ],
)
def test_a_receivers_ledger_that_says_something_else_is_not_believed(two: Two, statement: str) -> None:
    ticket, data, finish = half_fetched(two)
    assert change(two.there["XFER_HOME"], statement) > 0
    finish()
    assert two.fetch(ticket).code == 0
    assert (two.out / "stream").read_bytes() == data


# --- in the source


def test_a_source_that_changes_while_it_is_sent_is_refused_on_both_sides(two: Two) -> None:
    """Its time is set back, as a bad disk or a hasty tool would: the change time tells."""
    source = two.file("f", 3 * MIB)
    before = source.stat()
    sending = two.send("--via", "webrtc", source)
    ticket = sending.ticket
    flip_file(source, 2 * MIB)
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    got = two.fetch(ticket)
    said = complaint(sending)
    assert (said.code, said.kind) == (6, "SourceChanged")
    assert "f" in said.message
    assert (complaint(got).code, two.arrived) == (6, [])
