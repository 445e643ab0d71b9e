"""Runs that end too early, by kill, signal or full disk, and the runs that carry on."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import MIB, SOON, XFER, Background, Two, complaint

from transfer import events
from transfer.chunks import make_manifest
from transfer.model import Entry, EntryKind
from transfer.received import ReceivedJob
from transfer.ticket import Ticket
from transfer.transports.s3.outbound import OPEN_SEGMENTS

SIZE = 64 * MIB
LAST_PART = 12 * MIB
"""Raw bytes in the last part of a segment, at most: it is made anew if the segment was not yet joined."""


@pytest.fixture
def slow(two: Two) -> Path:
    """A file that takes seconds with `start_slow`, and no time with `carry_on`."""
    return two.file("slow", SIZE)


def start_slow(two: Two, path: Path) -> Background:
    return two.send("--via", "s3", "--bwlimit", "16MiB", path)


def carry_on(two: Two, path: Path) -> Background:
    return two.send("--via", "s3", path)


def arrived_whole(two: Two, path: Path) -> bool:
    return (two.out / path.name).read_bytes() == path.read_bytes() and two.left_over == []


# --- the sender ends


def test_a_killed_send_carries_on_under_the_same_ticket_and_repeats_little(two: Two, slow: Path) -> None:
    first = start_slow(two, slow)
    safe = first.moved(SIZE // 2).done
    first.signal(signal.SIGKILL)
    assert first.code == -signal.SIGKILL
    second = carry_on(two, slow)
    assert second.summary.outcome == "stored"
    assert second.ticket == first.ticket
    assert second.summary.wire <= SIZE - safe + OPEN_SEGMENTS * LAST_PART
    assert second.summary.bytes == SIZE
    assert two.fetch(second.ticket).summary.resent == 0
    assert arrived_whole(two, slow)


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long)]
)
def test_an_interrupted_send_prints_what_resumes_it(
    two: Two, slow: Path, signum: signal.Signals, code: int
) -> None:
    first = start_slow(two, slow)
    first.moved(SIZE // 2)
    first.signal(signum)
    said = complaint(first)
    assert (said.code, said.kind, said.message) == (code, "Interrupted", "interrupted")
    assert said.next == f"carry on with `xfer send --json --via s3 --bwlimit 16MiB {slow}`"
    second = carry_on(two, slow)
    assert second.summary.outcome == "stored"
    assert second.ticket == first.ticket
    assert second.summary.wire < SIZE
    assert two.fetch(second.ticket).code == 0
    assert arrived_whole(two, slow)


def test_a_send_interrupted_while_it_waits_keeps_its_ticket(two: Two) -> None:
    source = two.file("f", 100_000)
    first = two.send(source)
    first.event(events.Waiting)
    first.signal(signal.SIGINT)
    assert complaint(first).code == 130
    second = two.send(source)
    assert second.ticket == first.ticket
    assert two.fetch(second.ticket).summary.route == "webrtc"
    assert second.summary.outcome == "receipt"


def test_a_send_killed_while_it_waits_for_the_receipt_of_what_is_stored_waits_on(two: Two) -> None:
    source = two.file("f", 100_000)
    first = two.send(source, "--wait", "0", "--receipt")
    first.event(events.Stored)
    first.signal(signal.SIGKILL)
    first.end()
    second = two.send(source, "--wait", "0", "--receipt")
    second.event(events.Stored)
    assert second.ticket == first.ticket
    got = two.fetch(first.ticket)
    assert second.summary.outcome == "receipt"
    assert (second.summary.digest, second.summary.wire) == (got.summary.digest, 0)


def test_a_receipt_that_a_killed_send_had_counts_in_the_next_run(two: Two) -> None:
    source = two.file("f", 100_000)
    command = (source, "--via", "webrtc", "--fetches", "2")
    first = two.send(*command)
    assert two.fetch(first.ticket, "-o", two.out / "a").code == 0
    first.event(events.Receipt)
    first.signal(signal.SIGKILL)
    first.end()
    second = two.send(*command)
    assert second.ticket == first.ticket
    assert two.fetch(first.ticket, "-o", two.out / "b").code == 0
    assert second.summary.outcome == "receipt"


def test_the_same_file_sent_twice_at_once_is_two_jobs(two: Two) -> None:
    source = two.file("f", 100_000)
    first, second = two.send(source), two.send(source)
    assert first.ticket != second.ticket
    for sending, name in ((first, "a"), (second, "b")):
        assert two.fetch(sending.ticket, "-o", two.out / name).code == 0
        assert sending.summary.outcome == "receipt"


@pytest.mark.long
def test_a_fetch_waits_for_a_killed_sender_and_follows_the_next_run(two: Two, slow: Path) -> None:
    first = start_slow(two, slow)
    got = two.fetch(first.ticket)
    got.event(events.RouteChosen)
    first.signal(signal.SIGKILL)
    got.event(events.Waiting, lambda event: event.what == "waiting for the sender")
    second = carry_on(two, slow)
    assert second.summary.outcome == "stored"
    assert (got.code, got.summary.resent) == (0, 0)
    assert arrived_whole(two, slow)


@pytest.mark.long
def test_a_fetch_that_lost_its_sender_for_good_gives_up_and_keeps_what_it_has(two: Two, slow: Path) -> None:
    first = start_slow(two, slow)
    got = two.fetch(first.ticket, "--patience", "4s")
    got.event(events.RouteChosen)
    first.signal(signal.SIGKILL)
    said = complaint(got)
    assert (said.code, said.kind) == (5, "PeerAbsent")
    assert said.message == "the sender is away and its transfer is not complete"
    assert (two.arrived, len(two.left_over)) == ([], 1)
    assert carry_on(two, slow).summary.outcome == "stored"
    again = two.fetch(first.ticket)
    assert again.summary.wire < SIZE
    assert arrived_whole(two, slow)


# --- the receiver ends


def test_a_killed_fetch_carries_on_and_fetches_only_what_it_lacks(two: Two) -> None:
    """The sender is a stream that stays open, so that the first run cannot have been done."""
    data = os.urandom(24 * MIB)
    sending = two.stream()
    sending.feed(data[: 20 * MIB])
    first = two.fetch(sending.ticket)
    safe = first.moved(12 * MIB).done
    first.signal(signal.SIGKILL)
    first.end()
    assert (two.arrived, len(two.left_over)) == ([], 1)
    sending.feed(data[20 * MIB :])
    sending.hang_up()
    again = two.fetch(sending.ticket)
    assert again.summary.bytes == len(data)
    assert again.summary.wire <= len(data) - safe + 2 * 4 * MIB + MIB  # what the ledger learns with a delay
    assert again.summary.digest == sending.summary.digest
    assert (two.out / "stream").read_bytes() == data
    assert two.left_over == []


def test_a_fetch_killed_midway_through_a_direct_transfer_is_served_anew(two: Two) -> None:
    source = two.file("f", 90 * MIB)
    sending = two.send(source)
    first = two.fetch(sending.ticket)
    safe = first.moved(40 * MIB).done
    first.signal(signal.SIGKILL)
    first.end()
    assert two.arrived == []
    again = two.fetch(sending.ticket)
    assert again.summary.wire < 90 * MIB - safe + 24 * MIB  # what the ledger learns with a delay
    assert sending.summary.outcome in ("receipt", "stored")
    assert (two.out / "f").read_bytes() == source.read_bytes()
    assert two.left_over == []


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long)]
)
def test_an_interrupted_fetch_prints_what_resumes_it_but_no_ticket(
    two: Two, signum: signal.Signals, code: int
) -> None:
    sending = two.stream()
    sending.feed(os.urandom(20 * MIB))
    first = two.fetch(sending.ticket)
    first.moved(4 * MIB)
    first.signal(signum)
    said = complaint(first)
    assert (said.code, said.kind) == (code, "Interrupted")
    assert said.next == f"carry on with `xfer fetch --json TICKET -o {two.out}`"
    assert sending.ticket not in first.stderr
    assert (two.arrived, len(two.left_over)) == ([], 1)
    sending.hang_up()
    again = two.fetch(sending.ticket)
    assert again.summary.wire < 20 * MIB
    assert sending.summary.outcome == "stored"
    assert (two.out / "stream").stat().st_size == 20 * MIB
    assert two.left_over == []


def test_what_no_later_run_could_find_is_removed(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fetch that ends between making its temporary folder and writing down where that is."""
    monkeypatch.setenv("XFER_HOME", two.there["XFER_HOME"])
    manifest = make_manifest([Entry(b"f", EntryKind.FILE, 10, 0o644, 0)])
    ticket = Ticket.new()
    for known in (False, True):
        with ReceivedJob(ticket, two.out, overwrite=False, rename=False, unsafe_links=False) as job:
            job.sink.begin(manifest)
            assert len(two.left_over) == 1
            if known:
                job.begun()
        assert len(two.left_over) == known


def test_two_fetches_to_the_same_place_at_once_do_not_meet(two: Two) -> None:
    sending = two.stream()
    sending.feed(b"x")
    first = two.fetch(sending.ticket)
    first.event(events.Waiting)
    said = complaint(two.fetch(sending.ticket))
    assert (said.code, said.kind) == (11, "Locked")
    assert said.message == f"another run fetches this ticket to {two.out}"
    elsewhere = two.fetch(sending.ticket, "-o", f"{two.tmp}/elsewhere/")
    sending.hang_up()
    assert first.code == elsewhere.code == 0
    assert (two.out / "stream").read_bytes() == (two.tmp / "elsewhere/stream").read_bytes() == b"x"


def test_fetching_again_after_it_is_done_finds_it_there(two: Two) -> None:
    ticket = two.store(two.file("f", 1000))
    assert two.fetch(ticket).code == 0
    assert complaint(two.fetch(ticket)).code == 8
    assert two.arrived == ["f"]


@pytest.mark.long
def test_what_was_damaged_on_disk_meanwhile_is_fetched_again(two: Two) -> None:
    data = os.urandom(24 * MIB)
    sending = two.stream()
    sending.feed(data[: 20 * MIB])
    first = two.fetch(sending.ticket)
    first.moved(12 * MIB)
    first.signal(signal.SIGKILL)
    first.end()
    with open(two.out / two.left_over[0] / "tree" / "stream", "r+b") as file:
        file.seek(5 * MIB)
        file.write(b"not what was sent")
    sending.feed(data[20 * MIB :])
    sending.hang_up()
    assert two.fetch(sending.ticket).summary.digest == sending.summary.digest
    assert (two.out / "stream").read_bytes() == data


# --- a full disk


@pytest.fixture
def small_disk(two: Two) -> Iterator[Path]:
    """A file system of 24 MiB at `out`; `mount -o remount` makes it larger."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "xfer-test", str(two.out)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount here: {mounted.stderr.strip()}")
    try:
        yield two.out
    finally:
        subprocess.run(["umount", "--lazy", two.out], check=True)


def test_a_fetch_whose_home_is_lost_starts_anew_and_names_what_was_left(two: Two) -> None:
    ticket = two.store(two.file("f", 8 * MIB))
    first = two.fetch(ticket, "--bwlimit", "2MiB")
    first.moved(1)
    first.signal(signal.SIGKILL)
    first.end()
    [left] = two.left_over
    again = two.fetch(ticket, env={**two.there, "XFER_HOME": str(two.tmp / "a new home")})
    assert again.summary.kept == 0
    warned = [event.text for event in again.events if isinstance(event, events.Notice) and event.warning]
    assert [text.startswith(f"{two.out / left} (") for text in warned] == [True]
    assert two.left_over == [left]  # another host that shares the folder may go on with it
    assert two.fetch(ticket, "--overwrite").code == 0  # that goes on with it
    assert two.left_over == []


@pytest.mark.root
def test_a_disk_that_is_too_small_is_told_before_a_byte_comes(two: Two, small_disk: Path) -> None:
    said = complaint(two.fetch(two.store(two.file("f", 30 * MIB))))
    assert (said.code, said.kind) == (5, "DiskFull")
    assert said.message.startswith("the transfer needs 31.5 MB, and ")
    assert list(small_disk.iterdir()) == []


@pytest.mark.root
def test_a_disk_that_fills_up_keeps_what_came_and_a_rerun_with_more_room_resumes(
    two: Two, small_disk: Path
) -> None:
    data = os.urandom(40 * MIB)
    sending = two.stream()
    sending.feed(data)
    sending.hang_up()
    assert sending.code == 0
    said = complaint(two.fetch(sending.ticket))
    assert (said.code, said.kind) == (5, "DiskFull")
    assert "free some space" in said.next
    assert (two.arrived, len(two.left_over)) == ([], 1)
    subprocess.run(["mount", "-o", "remount,size=60m", small_disk], check=True)
    again = two.fetch(sending.ticket)
    assert again.summary.wire < 32 * MIB
    assert (small_disk / "stream").read_bytes() == data
    assert two.left_over == []


@pytest.mark.root
def test_a_full_disk_under_the_ledger_is_told_and_nothing_is_lost(two: Two) -> None:
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    home = Path(two.there["XFER_HOME"])
    home.mkdir()
    ticket = two.store(two.file("f", 3 * MIB))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "xfer-test", home], check=True)
    try:
        with open(home / "ballast", "wb") as ballast:
            ballast.write(bytes(40 << 10))
        said = complaint(two.fetch(ticket))
        assert (said.code, said.kind) == (5, "DiskFull")
        assert two.arrived == []
        (home / "ballast").unlink()
        subprocess.run(["mount", "-o", "remount,size=8m", home], check=True)
        assert two.fetch(ticket).end(SOON).code == 0
    finally:
        subprocess.run(["umount", "--lazy", home], check=True)
    assert two.arrived == ["f"]


@pytest.mark.skipif(os.name != "posix", reason="needs a pipe that nobody reads")
def test_an_interrupted_fetch_to_a_pipe_that_nobody_reads_ends_at_once(two: Two) -> None:
    ticket = two.store(two.file("f", 4 * MIB))
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [*XFER, "fetch", ticket, "-o", "-"], env=two.there, stdout=writing, stderr=subprocess.DEVNULL
    )
    try:
        os.close(writing)
        assert select.select([reading], [], [], SOON)[0]  # bytes are there: the rest does not fit
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=SOON) == 130
    finally:
        process.kill()
        process.wait()
        os.close(reading)
