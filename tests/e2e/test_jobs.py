"""Jobs from the command line, by their owner, from whatever host: listed, watched, paused, gone on with, ended, kept."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from helpers import MIB, Background, Two, at_a_terminal, complaint, seconds
from hostile import context_of

from transfer import api, events
from transfer.api import JobState
from transfer.broker_client import Patience, connected
from transfer.events import Progress, Waiting
from transfer.ledger import Ledger
from transfer.seal import Sealer
from transfer.ticket import Ticket

SIZE = 32 * MIB
SLOWLY = ("--via", "s3", "--concurrency", "1", "--bwlimit", "1500k")
DIRECTLY = ("--via", "webrtc", "--bwlimit", "1500k", "--wait", "forever")
STILL = 12.0
"""Seconds for which nothing may move: longer than a peer may be silent, and than the receiver has patience."""


@pytest.fixture
def source(two: Two) -> Path:
    """What goes slowly takes 22 seconds to send, the first part of it 6: whatever is done to it comes in time."""
    return two.file("source", SIZE)


@pytest.fixture
def elsewhere(two: Two) -> Mapping[str, str]:
    """Another host of the sender's: the same user and servers, a state of its own."""
    return {**two.here, "XFER_HOME": str(two.tmp / "home-elsewhere")}


def job_of(sending: Background) -> str:
    return sending.ticket[6:22]


def did(two: Two, *args: object, env: Mapping[str, str]) -> Any:
    """What a command that is done at once says with --json."""
    ended = two.start(*args, "--json", env=env)
    assert ended.code == 0, ended.stderr
    return json.loads(ended.stdout)


def paused(sending: Background) -> Waiting:
    return sending.event(Waiting, lambda event: event.on == "owner")


def moved(*processes: Background) -> list[tuple[int, int]]:
    return [
        max(((e.done, e.wire) for e in process.events if isinstance(e, Progress)), default=(0, 0))
        for process in processes
    ]


async def parts(two: Two, job: str) -> int:
    """How many parts, or whole segments, the store has of it."""
    async with connected(context_of(two), "test", Patience(20.0)) as (_, broker):
        status = await broker.status(job)
        opened = [await broker.list_parts(job, n, upload) for n, upload in status.open_uploads.items()]
    return len(status.complete) + sum(len(listed.parts) for listed in opened)


def feed(sending: Background, data: list[bytes]) -> None:
    """All of it, then the end."""
    for piece in data:
        sending.feed(piece)
    sending.hang_up()


async def created(two: Two) -> str:
    """A job with nothing in it."""
    ticket = Ticket.new()
    async with connected(context_of(two), "test", Patience(20.0)) as (_, broker):
        token_hash = Sealer(ticket).token_hash()
        await broker.create(api.Create(job=ticket.job, token_hash=token_hash, size=1, expire=60.0))
    return ticket.job


def stands_still(what: Callable[[], object], seconds: float = STILL) -> None:
    """Once that which was under way has ended, it does not change for so long."""
    time.sleep(1.5)
    before = what()
    time.sleep(seconds)
    assert what() == before


# --- pause and resume


@pytest.mark.long
def test_a_paused_send_stores_nothing_more_until_another_host_has_it_go_on_and_then_all_arrives(
    two: Two, elsewhere: Mapping[str, str]
) -> None:
    sending = two.stream("--via", "s3")
    data = [os.urandom(MIB) for _ in range(40)]
    for piece in data[:20]:
        sending.feed(piece)
    got = two.fetch(sending.ticket, "--patience", "10s")
    got.moved(12 * MIB)
    job = job_of(sending)
    assert did(two, "pause", job[:8], env=elsewhere)["state"] == "paused"
    assert paused(sending).what == f"paused by its owner; `xfer resume {job}` goes on"
    feeding = threading.Thread(target=feed, args=(sending, data[20:]))
    feeding.start()
    stands_still(lambda: (asyncio.run(parts(two, job)), moved(sending)))
    assert asyncio.run(parts(two, job)) > 0
    assert moved(sending)[0][0] <= 21 * MIB
    assert [event.on for event in got.events if isinstance(event, Waiting)][-1:] == ["owner"], got._told()
    assert got.running
    lifted = two.start("resume", job[:8], env=elsewhere)
    assert (lifted.code, lifted.stdout) == (0, b"")
    assert lifted.stderr == ""
    feeding.join()
    assert sending.summary.outcome == "stored"
    assert got.code == 0
    assert (two.out / "stream").read_bytes() == b"".join(data)


@pytest.mark.long
def test_a_paused_direct_transfer_keeps_its_receiver_who_loses_neither_patience_nor_a_byte(
    two: Two, source: Path, elsewhere: Mapping[str, str]
) -> None:
    sending = two.send(*DIRECTLY, source)
    got = two.fetch(sending.ticket, "--patience", "10s")
    got.moved(4 * MIB)
    job = job_of(sending)
    did(two, "pause", job, env=elsewhere)
    paused(sending)
    stands_still(lambda: moved(sending, got))
    assert moved(got)[0][0] < SIZE
    assert two.start("resume", job, env=elsewhere).code == 0
    assert (sending.summary.route, sending.summary.outcome, sending.summary.resent) == (
        "webrtc",
        "receipt",
        0,
    )
    assert got.summary.route == "webrtc"
    assert [e for e in got.events if isinstance(e, events.RouteChosen)][1:] == []
    assert (two.out / "source").read_bytes() == source.read_bytes()


@pytest.mark.long
@pytest.mark.parametrize("how", [SLOWLY, DIRECTLY], ids=["s3", "webrtc"])
def test_a_paused_send_that_is_killed_is_lifted_and_continued_by_resume_job_and_by_nothing_else(
    two: Two, source: Path, how: tuple[str, ...]
) -> None:
    sending = two.send(*how, source)
    got = two.fetch(sending.ticket)
    sending.moved(MIB)
    job = job_of(sending)
    did(two, "pause", job, env=two.here)
    paused(sending)
    sending.signal(signal.SIGKILL)
    sending.end()
    refused = complaint(two.start("resume", "--json"))
    assert (refused.code, refused.kind) == (11, "JobPaused")
    assert refused.next == f"`xfer resume {job}` goes on with it"
    same = two.send(*how, source)
    paused(same)
    assert same.ticket == sending.ticket
    same.signal(signal.SIGKILL)
    same.end()
    again = two.start("resume", "--json", job[:9])
    assert again.summary.outcome == ("receipt" if how is DIRECTLY else "stored")
    assert again.ticket == sending.ticket
    assert again.summary.kept > 0
    assert got.code == 0
    assert (two.out / "source").read_bytes() == source.read_bytes()


def test_a_job_that_runs_here_is_lifted_where_it_runs(two: Two) -> None:
    sending = two.send(two.file("f", MIB), "--wait", "forever")
    job = job_of(sending)
    did(two, "pause", job, env=two.here)
    paused(sending)
    lifted = two.start("resume", "--json", job)
    assert lifted.code == 0
    assert [event.text for event in lifted.events if isinstance(event, events.Notice)] == [
        f"{job} goes on where it runs"
    ]
    assert two.fetch(sending.ticket).code == 0
    assert sending.summary.outcome == "receipt"


def test_a_receiver_that_comes_during_a_pause_waits_for_its_end(
    two: Two, elsewhere: Mapping[str, str]
) -> None:
    sending = two.send(two.file("f", 3 * MIB), "--wait", "30s")
    job = job_of(sending)
    did(two, "pause", job, env=elsewhere)
    paused(sending)
    got = two.fetch(sending.ticket, "--patience", "1s")
    got.event(Waiting, lambda event: event.on == "owner")
    time.sleep(2)
    assert got.running
    assert sending.running
    assert moved(got) == [(0, 0)]
    assert two.start("resume", job, env=elsewhere).code == 0
    assert got.code == 0
    assert sending.summary.outcome == "receipt"


# --- the end of it


@pytest.mark.long
@pytest.mark.parametrize("how", [SLOWLY, DIRECTLY], ids=["s3", "webrtc"])
@pytest.mark.parametrize("verb", ["cancel", "rm"])
def test_a_send_that_its_owner_ends_exits_4_and_its_receiver_hears_of_it(
    two: Two, source: Path, elsewhere: Mapping[str, str], verb: str, how: tuple[str, ...]
) -> None:
    sending = two.send(*how, source)
    got = two.fetch(sending.ticket)
    sending.moved(MIB)
    job = job_of(sending)
    assert did(two, verb, job, env=elsewhere)["state"] == "void"
    failed = complaint(sending)
    assert (failed.code, failed.kind) == (4, "JobCancelled") if verb == "cancel" else failed.code == 4
    assert complaint(got).code in ((4,) if verb == "cancel" else (4, 6))
    assert two.arrived == []
    assert two.start("resume", "--list", "--json").end().stdout.count(b'"side"') == 0
    states = [line["state"] for line in did(two, "ls", "--all", env=elsewhere) if line["job"] == job]
    assert states == (["void"] if verb == "cancel" else [])


def test_a_stored_job_is_extended_and_then_forgotten_with_all_that_is_stored(
    two: Two, elsewhere: Mapping[str, str]
) -> None:
    ticket = two.store(two.file("f", MIB))
    job = ticket[6:22]
    code, said = at_a_terminal("extend", job, "--expire", "3d", env=elsewhere)
    assert (code, said.startswith(f"{job} is kept until ")) == (0, True)
    status = did(two, "status", job, env=elsewhere)
    assert seconds(status["expires"]) == pytest.approx(time.time() + 3 * 86_400, abs=120)
    too_long = complaint(two.start("extend", "--json", job, "--expire", "200d", env=elsewhere))
    assert too_long.code == 2
    assert "at most" in too_long.message
    assert two.start("rm", job, env=elsewhere).code == 0
    assert complaint(two.fetch(ticket)).code == 4
    assert complaint(two.start("status", "--json", job, env=elsewhere)).code == 4


# --- seeing them


def test_jobs_are_listed_by_their_states_and_shown_one_by_one(two: Two, elsewhere: Mapping[str, str]) -> None:
    stored = two.store(two.file("f", MIB), "--fetches", "2")[6:22]
    assert two.fetch(two.send("--wait", "0", two.file("g", 10), "--fetches", "1").ticket).code == 0
    waiting = two.send(two.file("h", 2 * MIB), "--wait", "forever")
    job = job_of(waiting)
    did(two, "pause", job, env=elsewhere)
    shown = two.start("ls", env=elsewhere)
    assert (shown.code, shown.stderr) == (0, "")
    lines = shown.stdout.decode().splitlines()
    assert lines[0].split() == ["JOB", "STATE", "SIZE", "CREATED", "EXPIRES", "FETCHED", "WHAT"]
    rows = {line.split()[0]: line for line in lines[1:]}
    assert "stored" in rows[stored]
    assert rows[stored].endswith("0 of 2")
    assert "paused" in rows[job]
    listed = did(two, "ls", "--state", "paused", env=elsewhere)
    assert {line["state"] for line in listed} == {"paused"}
    assert {line["what"] for line in listed} == {None}
    here = {line["job"]: line["what"] for line in did(two, "ls", env=two.here)}
    assert (here[stored], here[job]) == ("f", "h")
    assert [line["size"] for line in listed if line["job"] == job] == [2 * MIB]
    everything = did(two, "ls", "--all", env=elsewhere)
    assert "delivered" in {line["state"] for line in everything}
    assert [line["created"] for line in everything] == sorted(line["created"] for line in everything)
    one = two.start("status", stored, env=elsewhere)
    assert one.code == 0
    told = dict(line.split(maxsplit=1) for line in one.stdout.decode().splitlines())
    assert (told["state"], told["size"], told["fetched"]) == ("stored", "1.0 MB", "0 of 2")
    assert told["stored"].endswith("in 1 segment")
    assert two.start("rm", stored).code == 0
    with closing(Ledger(Path(two.here["XFER_HOME"], "state", "ledger.db"))) as ledger:
        assert stored not in ledger.labels()


def test_a_job_is_named_by_how_its_id_begins_if_that_is_one_alone(
    two: Two, elsewhere: Mapping[str, str]
) -> None:
    ids: list[str] = []
    while not (alike := [job[0] for job in ids if sum(other[0] == job[0] for other in ids) > 1]):
        ids.append(asyncio.run(created(two)))  # of 33 two begin alike
    ambiguous = complaint(two.start("status", "--json", alike[0], env=elsewhere))
    assert ambiguous.code == 2
    assert ambiguous.next == "write a longer part of the one you mean"
    first = two.store(two.file("f", 10))[6:22]
    assert did(two, "status", first[:12], env=elsewhere)["job"] == first
    for nothing in ("nothing", "q" * 15, ""):
        assert complaint(two.start("pause", "--json", nothing, env=elsewhere)).code == 4
    assert complaint(two.start("pause", "--json", first, env=elsewhere)).code == 2


# --- watching


def watched(ended: Background) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ended.end().stdout.splitlines()]


@pytest.mark.long
def test_a_watcher_replays_what_was_and_follows_what_comes_to_the_end(
    two: Two, source: Path, elsewhere: Mapping[str, str]
) -> None:
    sending = two.send("--via", "s3", "--bwlimit", "6M", source)
    sending.moved(MIB)
    job = job_of(sending)
    watching = two.start("watch", "--json", job[:9], env=elsewhere)
    lines = two.start("watch", job, env=elsewhere)
    sent = sending.summary
    told = watched(watching)
    assert watching.code == lines.code == 0
    assert {one["job"] for one in told} == {job}
    assert [one["seq"] for one in told] == list(range(len(told)))
    assert (told[-1]["event"], told[-1]["state"], told[-1]["done"]) == ("end", "stored", sent.bytes)
    sequences = [one["sequence"] for one in told]
    replayed = [number for number in sequences if number is not None]
    assert len(replayed) >= 2
    assert sequences == [*replayed, *[None] * (len(sequences) - len(replayed))]
    assert lines.stderr.splitlines()[0] == "route: s3 (as its sender says)"
    assert "stored: anyone with the ticket" in lines.stderr.splitlines()[-1]
    assert sending.ticket not in lines.stderr + watching.stdout.decode()
    again = watched(two.start("watch", "--json", job, "--from", replayed[1], env=elsewhere))
    assert again[0]["seq"] == 1
    assert all(one["event"] != "notice" for one in again)
    assert again[-1]["event"] == "end"


@pytest.mark.long
def test_a_watcher_waits_for_a_sender_that_was_killed_and_ends_with_4_when_its_job_is_void(
    two: Two, source: Path, elsewhere: Mapping[str, str]
) -> None:
    sending = two.send(*SLOWLY, source)
    sending.moved(MIB)
    job = job_of(sending)
    watching = two.start("watch", job, env=elsewhere)
    sending.signal(signal.SIGINT)
    assert sending.code == 130
    deadline = time.monotonic() + 30
    while "its sender was interrupted; waiting for it to go on" not in watching.stderr:
        assert time.monotonic() < deadline, watching.stderr
        time.sleep(0.1)
    assert watching.running
    did(two, "cancel", job, env=elsewhere)
    assert watching.code == 4
    assert "void" in watching.stderr


def test_a_watcher_of_what_is_not_ours_is_told_that_it_is_not_there(two: Two) -> None:
    assert complaint(two.start("watch", "--json", "q" * 16)).code == 4


def test_the_library_lists_pauses_and_watches(two: Two) -> None:
    import transfer

    sending = two.send(two.file("f", MIB), "--wait", "forever")
    job = job_of(sending)

    async def work() -> list[JobState]:
        async with transfer.jobs(context_of(two)) as mine:
            states = [(await act(job[:10])).state for act in (mine.pause, mine.resume, mine.cancel)]
            assert job in [line.job for line in await mine.list([JobState.VOID])]
        return states

    assert asyncio.run(work()) == [JobState.PAUSED, JobState.OPEN, JobState.VOID]
    assert complaint(sending).code == 4
