"""What did not end is listed as the ledger knows it, and found by the beginning of its id."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from test_sent import ASKED

import transfer
from cli.resume import _named as named
from transfer.chunks import MIB, make_manifest, manifest_blocks
from transfer.errors import JobGone, NotConfigured, UsageError
from transfer.events import Event, Listener, Notice, TicketReady, Unfinished
from transfer.ledger import JobRow, Ledger, PartRow
from transfer.lock import FileLock
from transfer.model import Entry, EntryKind, FrameId, IndexedFrame, Kind
from transfer.received import ReceivedJob
from transfer.sent import lock_path
from transfer.ticket import RoomTicket, Ticket


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    for name in [name for name in os.environ if name.startswith(("XFER_", "NATS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XFER_HOME", str(tmp_path / "home"))
    with closing(Ledger(tmp_path / "home/state/ledger.db")) as opened:
        yield opened


def sent(ledger: Ledger, job: str = "job", total: int = 10 * MIB) -> JobRow:
    state = msgspec.structs.replace(ASKED, total=total).pack()
    return ledger.add("send", job, b"key", b"s" * 16, label="a, b", state=state)


def part(segment: int, number: int, *chunks: int) -> PartRow:
    rows = tuple(IndexedFrame(Kind.CHUNK, index, 100, bytes(32)) for index in chunks)
    return PartRow(segment, number, 100 * len(rows), "", rows)


def test_of_a_send_what_lies_in_complete_segments_is_done(ledger: Ledger) -> None:
    row = sent(ledger)
    for segment, parts in ((0, [part(0, 1, 0, 1), part(0, 2, 2)]), (1, [part(1, 1, 3, 4)])):
        ledger.add_segment(row, segment, "upload")
        for one in parts:
            ledger.add_part(row, one)
    ledger.complete_segment(row, 0, 300)
    (job,) = transfer.unfinished()
    assert (job.side, job.job, job.label, job.number) == ("send", "job", "a, b", row.id)
    assert (job.done, job.total, job.running) == (3 * MIB, 10 * MIB, False)


def test_the_last_chunk_is_shorter(ledger: Ledger) -> None:
    ledger.add_stored(sent(ledger, total=MIB + 1), [part(0, 1, 0, 1)])
    assert [job.done for job in transfer.unfinished()] == [MIB + 1]


def test_of_a_fetch_what_is_written_is_done_once_the_manifest_is_known(ledger: Ledger) -> None:
    row = ledger.add("fetch", "job", b"/out", b"s" * 16, label="/out")
    assert [(job.done, job.total) for job in transfer.unfinished()] == [(0, None)]
    manifest = make_manifest([Entry(b"f", EntryKind.FILE, 5 * MIB, 0o644, 0)])
    ledger.add_block(row, 0, next(manifest_blocks(manifest)))
    ledger.add_frames(row, [(FrameId(Kind.CHUNK, n), bytes(32)) for n in range(2)])
    assert [(job.done, job.total) for job in transfer.unfinished()] == [(2 * MIB, 5 * MIB)]


def test_what_another_run_works_on_is_running(ledger: Ledger, tmp_path: Path) -> None:
    ticket = Ticket.new()
    sent(ledger)
    with (
        FileLock(lock_path(tmp_path / "home/state/locks", "job"), "x"),
        ReceivedJob(ticket, tmp_path, overwrite=False, rename=False, unsafe_links=False),
    ):
        assert [(job.side, job.running) for job in transfer.unfinished()] == [("send", True), ("fetch", True)]
    assert [(job.side, job.running) for job in transfer.unfinished()] == [("send", False)]


async def test_what_ended_meanwhile_or_another_version_began_is_not_resumed(ledger: Ledger) -> None:
    row = sent(ledger)
    (job,) = transfer.unfinished()
    ledger.set_state(row, b"of another version")
    with pytest.raises(UsageError, match="by another version of xfer"):
        await transfer.resume(job)
    ledger.end(row)
    with pytest.raises(JobGone, match="is not unfinished any more"):
        await transfer.resume(job)


async def test_the_servers_of_the_environment_are_asked_for_again(ledger: Ledger) -> None:
    for number, context in enumerate(("environment", "work")):
        state = msgspec.structs.replace(ASKED, context=context).pack()
        ledger.add("send", f"job{number}", b"key", b"s" * 16, state=state)
    of_the_environment, of_a_context = transfer.unfinished()
    with pytest.raises(NotConfigured):
        await transfer.resume(of_the_environment)
    with pytest.raises(UsageError, match="no context 'work'"):
        await transfer.resume(of_a_context)


@pytest.mark.parametrize("room", ["", str(RoomTicket.new())], ids=["nowhere", "room"])
async def test_the_ticket_of_what_goes_to_a_room_is_not_told(
    ledger: Ledger, room: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = msgspec.structs.replace(ASKED, room=room, context="").pack()
    ledger.add("send", "job", b"key", b"s" * 16, label="a", state=state)

    async def send(_paths: object, *, on_event: Listener, **_asked: object) -> None:
        on_event(TicketReady(job="job", ticket="secret"))
        on_event(Notice(text="after it"))

    known = transfer.resume.__globals__  # `transfer.unfinished` is the function, not its module
    monkeypatch.setitem(known, "send", send)
    monkeypatch.setitem(known, "servers", lambda _name: None)
    told: list[Event] = []
    await transfer.resume(transfer.unfinished()[0], on_event=told.append)
    assert told == [TicketReady(job="job", ticket=None if room else "secret"), Notice(text="after it")]


def test_a_job_is_named_by_how_its_id_begins() -> None:
    def job(number: int, job: str, side: str) -> Unfinished:
        return Unfinished(
            number=number, job=job, side=side, label="", done=0, total=0, begun=0.0, running=False  # type: ignore[arg-type]
        )  # fmt: skip

    jobs = [job(1, "qp", "send"), job(2, "qz", "send"), job(3, "qp", "fetch")]
    assert named("qp", jobs) == [jobs[0], jobs[2]]
    assert named("qz", jobs) == [jobs[1]]
    with pytest.raises(UsageError, match="'q' may be qp, qz"):
        named("q", jobs)
    assert named("r", jobs) == []
