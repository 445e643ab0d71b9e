"""Files and trees from one process to another, by the route that `auto` chooses, on real servers."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers import MIB, SOON, XFER, Background, Two, complaint, make_tree, same_tree

from tests.orphans import objects_of
from transfer import events

if TYPE_CHECKING:
    from tests.conftest import Servers


def same(one: Path, other: Path) -> bool:
    """`cmp`, so that a gigabyte needs no memory here."""
    return subprocess.run(["cmp", one, other], check=False).returncode == 0


def told(ended: Background) -> list[str]:
    """Kinds of events in their order, without repeats of what comes many times."""
    names = [type(event).__name__ for event in ended.events]
    return [n for at, n in enumerate(names) if n not in ("Progress", "Waiting") or n not in names[:at]]


def test_3_mb_go_straight_to_a_receiver_that_is_there(two: Two) -> None:
    source = two.file("photo.raw", 3_000_000)
    source.chmod(0o640)
    sending = two.send(source)
    got = two.fetch(sending.ticket).summary
    sent = sending.summary
    assert (sent.outcome, sent.route, got.outcome, got.route) == ("receipt", "webrtc", "fetched", "webrtc")
    assert sent.digest == got.digest
    assert (sent.bytes, sent.files, sent.chunks, sent.resent) == (3_000_000, 1, 3, 0)
    assert (got.bytes, got.files, got.chunks, got.resent) == (3_000_000, 1, 3, 0)
    assert 3_000_000 < got.wire < 3_010_000
    assert got.paths == [str(two.out / "photo.raw")]
    assert two.arrived == ["photo.raw"]
    assert two.left_over == []
    assert same(source, two.out / "photo.raw")
    assert (two.out / "photo.raw").stat().st_mtime_ns == source.stat().st_mtime_ns
    receipt = sending.event(events.Receipt)
    assert receipt.digest == got.digest


def test_what_was_delivered_directly_is_not_kept(two: Two, servers: Servers) -> None:
    sending = two.send(two.file("f", 1000))
    job = sending.event(events.TicketReady).job
    assert two.fetch(sending.ticket).code == 0
    assert sending.code == 0
    assert keys(servers, job) == []
    late = complaint(two.fetch(sending.ticket, "-o", f"{two.tmp}/late/"))
    assert (late.code, late.message) == (4, "this transfer has been delivered and is not kept any longer")
    assert not (two.tmp / "late").exists()


def test_when_nobody_comes_it_is_stored_and_can_be_fetched_later(two: Two, servers: Servers) -> None:
    source = two.file("f", 3_000_000)
    sent = two.send(source, "--wait", "1s")
    assert (sent.summary.outcome, sent.summary.route) == ("stored", "s3")
    assert told(sent) == ["TicketReady", "Waiting", "RouteChosen", "Progress", "Stored", "Summary"]
    assert sent.event(events.RouteChosen).reason == "no receiver came in time"
    assert len(keys(servers, sent.summary.job)) == sent.event(events.Stored).segments == 1
    for name in ("first", "second"):
        got = two.fetch(sent.ticket, "-o", two.out / name).summary
        assert (got.route, got.digest) == ("s3", sent.summary.digest)
        assert same(source, two.out / name)


def test_wait_0_asks_nobody(two: Two) -> None:
    sent = two.send(two.file("f", 1000), "--wait", "0")
    assert sent.summary.outcome == "stored"
    assert told(sent) == ["TicketReady", "RouteChosen", "Progress", "Stored", "Summary"]


@pytest.mark.parametrize(("size", "route"), [(299_999, "webrtc"), (300_000, "s3"), (300_001, "s3")])
def test_the_threshold_decides(two: Two, size: int, route: str) -> None:
    source = two.file("f", size)
    sending = two.send(source, "--threshold", "300kB")
    assert two.fetch(sending.ticket).summary.route == route
    assert sending.summary.route == route
    assert sending.summary.outcome == ("receipt" if route == "webrtc" else "stored")
    assert same(source, two.out / "f")


@pytest.mark.long
@pytest.mark.parametrize(
    ("size", "route"), [(99_999_999, "webrtc"), (100_000_001, "s3"), (1_000_000_000, "s3")]
)
def test_100_mb_is_where_the_store_takes_over(two: Two, size: int, route: str) -> None:
    source = two.file("large", size)
    sending = two.send(source)
    got = two.fetch(sending.ticket)
    sending.end(300)
    got.end(300)
    assert (sending.summary.route, got.summary.route) == (route, route)
    assert sending.summary.digest == got.summary.digest
    assert got.summary.resent == 0
    assert same(source, two.out / "large")
    assert max(sending.peak, got.peak) < 400 * MIB
    for path in (source, two.out / "large"):
        path.unlink()


def test_via_s3_stores_even_when_somebody_is_there(two: Two) -> None:
    source = two.file("f", 1_000_000)
    sending = two.send(source, "--via", "s3", "--receipt")
    assert two.fetch(sending.ticket).summary.route == "s3"
    assert (sending.summary.route, sending.summary.outcome) == ("s3", "receipt")
    assert same(source, two.out / "f")


def test_via_webrtc_with_nobody_there_exits_5_and_stores_nothing(two: Two, servers: Servers) -> None:
    sent = two.send(two.file("f", 1000), "--via", "webrtc", "--wait", "1s")
    said = complaint(sent)
    assert (said.code, said.kind, said.message) == (5, "PeerAbsent", "nobody came for the transfer in time")
    assert "--via webrtc" in said.next
    assert keys(servers, sent.event(events.TicketReady).job) == []
    again = two.send(two.tmp / "f", "--via", "webrtc")
    assert again.ticket == sent.ticket, "whoever has the first ticket may come now"
    assert two.fetch(sent.ticket).code == 0
    assert again.summary.outcome == "receipt"


@pytest.mark.parametrize("route", ["webrtc", "s3"])
def test_a_tree_arrives_as_it_was(two: Two, route: str) -> None:
    source = make_tree(two.tmp / "tree", 300)
    sending = two.send(source, "--via", route)
    got = two.fetch(sending.ticket).summary
    assert (sending.summary.route, got.route) == (route, route)
    assert got.files == sending.summary.files > 300
    assert (two.arrived, two.left_over) == (["tree"], [])
    same_tree(source, two.out / "tree")


@pytest.mark.long
@pytest.mark.parametrize("route", ["webrtc", "s3"])
def test_ten_thousand_files_arrive_as_they_were(two: Two, route: str) -> None:
    source = make_tree(two.tmp / "tree", 10_200)
    sending = two.send(source, "--via", route)
    got = two.fetch(sending.ticket)
    sending.end(300)
    got.end(300)
    assert got.summary.files == sending.summary.files > 10_200
    assert max(sending.peak, got.peak) < 400 * MIB
    same_tree(source, two.out / "tree")


@pytest.mark.parametrize("route", ["auto", "s3"])
def test_nothing_at_all_is_a_transfer_too(two: Two, route: str) -> None:
    (two.tmp / "empty file").touch()
    (two.tmp / "empty folder").mkdir()
    for name in ("empty file", "empty folder"):
        sending = two.send(two.tmp / name, "--via", route)
        assert two.fetch(sending.ticket).summary.bytes == 0
        assert (sending.summary.bytes, sending.summary.chunks) == (0, 0)
    assert two.arrived == ["empty file", "empty folder"]
    assert (two.out / "empty file").stat().st_size == 0
    assert list((two.out / "empty folder").iterdir()) == []


def test_several_paths_arrive_side_by_side(two: Two) -> None:
    one, other = two.file("one.bin", 1_100_000), make_tree(two.tmp / "folder", 3)
    third = two.file("three", 10)
    ticket = two.store(one, other, third)
    assert two.fetch(ticket).code == 0
    assert two.arrived == ["folder", "one.bin", "three"]
    assert same(one, two.out / "one.bin")
    same_tree(other, two.out / "folder")


def test_two_paths_of_the_same_name_are_refused_before_there_is_a_ticket(two: Two) -> None:
    for folder in ("a", "b"):
        (two.tmp / folder).mkdir()
        two.file(f"{folder}/same", 10)
    sent = two.send(two.tmp / "a/same", two.tmp / "b/same")
    assert complaint(sent).code == 2
    assert complaint(sent).message == "two of the paths are called same"
    assert len(sent.events) == 1


def test_the_last_allowed_fetch_takes_the_objects_with_it(two: Two, servers: Servers) -> None:
    sent = two.send(two.file("f", 1000), "--wait", "0", "--fetches", "1")
    job = sent.summary.job
    assert len(keys(servers, job)) == 1
    assert two.fetch(sent.ticket).code == 0
    assert keys(servers, job) == []
    second = two.fetch(sent.ticket, "-o", f"{two.tmp}/second/")
    assert complaint(second).code == 4
    assert not (two.tmp / "second").exists()


def test_two_receivers_are_served_directly_at_the_same_time(two: Two) -> None:
    source = two.file("f", 20 * MIB)
    sending = two.send(source, "--fetches", "2", "--bwlimit", "12M")
    got = [two.fetch(sending.ticket, "-o", two.out / name) for name in ("a", "b")]
    for one in got:
        one.moved(1)
    assert all(one.running for one in got), "neither waits for the other's end"
    assert [g.summary.route for g in got] == ["webrtc", "webrtc"]
    assert sending.summary.outcome == "receipt"
    assert len({e.receiver for e in sending.events if isinstance(e, events.Receipt)}) == 2
    assert sending.summary.resent == 0
    assert same(source, two.out / "a")
    assert same(source, two.out / "b")


def test_with_receipt_a_stored_send_ends_when_somebody_has_it(two: Two) -> None:
    sending = two.send(two.file("f", 1000), "--wait", "0", "--receipt")
    sending.event(events.Stored)
    sending.event(events.Waiting, lambda event: event.what == "stored; waiting for the receipt")
    assert sending.running
    assert two.fetch(sending.ticket).code == 0
    assert sending.summary.outcome == "receipt"


def on_a_terminal(two: Two, *args: object, env: Mapping[str, str]) -> tuple[str, str]:
    """What a command that ends well says on stdout, and on a stderr that is a terminal without control sequences."""
    ours, theirs = os.openpty()
    try:
        done = subprocess.run(
            [*XFER, *map(str, args)], env={**env, "TERM": "dumb"}, cwd=two.tmp, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=theirs, text=True, timeout=2 * SOON, check=True,
        )  # fmt: skip
        return done.stdout, os.read(ours, 10_000).decode().replace("\r\n", "\n")
    finally:
        os.close(ours)
        os.close(theirs)


def test_people_are_told_how_it_ended(two: Two) -> None:
    ticket, said = on_a_terminal(two, "send", "--wait", "0", two.file("f", 1000), env=two.here)
    assert re.fullmatch(
        r"route: s3 \(nobody is waited for\)\n"
        r"stored: anyone with the ticket can fetch it until \d{4}-.+ \(1 file, 1\.0 kB in .+ by s3\)\n",
        said,
    )
    nothing, said = on_a_terminal(two, "fetch", ticket.strip(), "-o", two.out, env=two.there)
    assert nothing == ""
    assert re.fullmatch(
        r"route: s3 \(from the store\)\nfetched: wrote .+/out/f, verified \(1 file, 1\.0 kB in .+ by s3\)\n",
        said,
    )


def test_an_unfinished_fetch_follows_a_send_that_is_still_at_it(two: Two) -> None:
    sending = two.stream()
    sending.feed(os.urandom(20 * MIB))
    got = two.fetch(sending.ticket)
    got.moved(8 * MIB)
    assert sending.running
    assert two.arrived == []
    sending.hang_up()
    assert got.summary.bytes == sending.summary.bytes == 20 * MIB
    assert two.arrived == ["stream"]


def keys(servers: Servers, job: str) -> list[str]:
    """The job's objects in the store."""
    return objects_of(servers, job)
