"""What did not end is listed, continued here or on another host, and never mixed with what changed since."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest
from brokers import HTTP, Place, crc
from helpers import MIB, Background, Two, at_a_terminal, complaint, make_tree, same_tree
from hostile import context_of

from transfer import api, events
from transfer.broker_client import Patience, connected
from transfer.events import Notice, Unfinished
from transfer.ledger import Ledger
from transfer.model import Kind
from transfer.ticket import Ticket

SIZE = 48 * MIB
SLOWLY = ("--via", "s3", "--concurrency", "2", "--bwlimit", "16MiB")
CRAWLING = (*SLOWLY[:-1], "4MiB")
"""For a send that must still be under way when a fetch of it has come to a certain point, on whatever machine."""


@pytest.fixture
def source(two: Two) -> Path:
    """What goes slowly takes three seconds to send."""
    return two.file("source", SIZE)


@pytest.fixture
def elsewhere(two: Two) -> Mapping[str, str]:
    """Another host of the sender's: the same user and servers, a state of its own."""
    return {**two.here, "XFER_HOME": str(two.tmp / "home-elsewhere")}


def killed(two: Two, path: Path, *, after: int = SIZE // 3, whole: bool = False) -> Background:
    """A send through the store that was killed once so much of it was stored, in parts. whole: and a segment of it, too."""
    sending = two.send(*(CRAWLING if whole else SLOWLY), path)
    sending.moved(after)
    while whole and not stored(two, sending.ticket):
        assert sending.running, sending.stderr
    sending.signal(signal.SIGKILL)
    return sending.end()


def stored(two: Two, ticket: str) -> int:
    """Bytes in whole segments."""
    status = two.start("status", "--json", Ticket.parse(ticket).job)
    assert status.code == 0, status.stderr
    return int(json.loads(status.stdout)["stored"])


def listed(two: Two, env: Mapping[str, str]) -> list[Unfinished]:
    ended = two.start("resume", "--list", "--json", env=env)
    assert ended.code == 0, ended.stderr
    return [event for event in ended.events if isinstance(event, Unfinished)]


def ledger_of(env: Mapping[str, str]) -> Path:
    return Path(env["XFER_HOME"], "state", "ledger.db")


def notices(ended: Background) -> str:
    return "\n".join(event.text for event in ended.events if isinstance(event, Notice))


# --- xfer resume


def test_resume_goes_on_with_what_was_killed_on_either_side(two: Two, source: Path) -> None:
    sending = two.send(*CRAWLING, source)
    got = two.fetch(sending.ticket)
    got.moved(8 * MIB)
    for process in (got, sending):
        process.signal(signal.SIGKILL)
        process.end()
    (here,), (there,) = listed(two, two.here), listed(two, two.there)
    assert (here.side, here.label, here.total, here.running) == ("send", "source", SIZE, False)
    assert (there.side, there.label, there.total, there.running) == ("fetch", str(two.out), SIZE, False)
    assert here.job == there.job
    assert min(here.done, there.done) >= 8 * MIB
    again = two.start("resume", "--json", here.job[:5], cwd=Path("/"))
    took = two.start("resume", "--json", cwd=Path("/"), env=two.there)
    assert again.summary.outcome == "stored"
    assert again.ticket == sending.ticket
    assert took.summary.kept == there.done // MIB
    assert (two.out / "source").read_bytes() == source.read_bytes()
    assert listed(two, two.here) == listed(two, two.there) == []
    assert (two.start("resume").code, two.left_over) == (0, [])


def test_resume_tells_of_each_that_fails_and_goes_on_with_the_others(two: Two) -> None:
    sources = [two.file(name, 100_000) for name in ("gone", "there")]
    for path in sources:
        waiting = two.send(path, "--wait", "30s")
        waiting.event(events.Waiting)
        waiting.signal(signal.SIGKILL)
        waiting.end()
    sources[0].unlink()
    running = two.send(two.file("running", 1000), "--wait", "forever")
    running.event(events.Waiting)
    assert [(job.label, job.running) for job in listed(two, two.here)] == [
        ("gone", False),
        ("there", False),
        ("running", True),
    ]
    again = two.start("resume", env={**two.here, "XFER_WAIT": "0"})
    assert two.fetch(again.ticket).code == 0
    assert again.code == 2
    told = [line for line in again.stderr.splitlines() if line.startswith("xfer: ")]
    assert len(told) == 1
    assert "(gone): " in told[0]
    assert "another run works on it" not in again.stderr, "that is as it should be, so no log hears of it"
    code, said = at_a_terminal("resume", env=two.here)
    assert (code, "another run works on it" in said) == (2, True)
    assert complaint(two.start("resume", "--json", "nothing")).code == 4
    assert [job.label for job in listed(two, two.here)] == ["gone", "running"]


# --- what its owner ended


def test_what_was_cancelled_elsewhere_leaves_the_list_and_takes_what_had_arrived(
    two: Two, source: Path, elsewhere: Mapping[str, str]
) -> None:
    sending = two.send(*CRAWLING, source)
    got = two.fetch(sending.ticket)
    got.moved(8 * MIB)
    for process in (got, sending):
        process.signal(signal.SIGKILL)
        process.end()
    job = Ticket.parse(sending.ticket).job
    assert two.start("cancel", job, env=elsewhere).code == 0
    nowhere = {**two.there, "NATS_URL": "nats://127.0.0.1:9"}
    assert [here.job for here in listed(two, nowhere)] == [job]  # nobody there says that it was
    assert len(two.left_over) == 1
    for env, side in ((two.there, "fetch"), (two.here, "send")):
        ended = two.start("resume", "--list", env=env)
        assert (ended.code, ended.stdout) == (0, b"")
        [said] = ended.stderr.splitlines()
        assert said.startswith(f"{side} {job} (")
        assert "this transfer was cancelled by its owner" in said
        assert said.endswith("; what had arrived of it is removed") == (side == "fetch")
    assert two.left_over == []
    assert at_a_terminal("resume", "--list", env=two.here) == (0, "nothing is unfinished on this host\n")
    late = complaint(two.start("resume", "--json", job))
    assert (late.code, late.kind) == (4, "JobCancelled")
    assert late.message == f"the transfer {job} is void: it was cancelled by its owner"
    assert late.next == "send it again if that was not meant"


@pytest.mark.parametrize("verb", ["cancel", "rm"])
def test_who_ends_a_job_has_its_own_host_forget_it_too(two: Two, source: Path, verb: str) -> None:
    """Here the same host has its send and its fetch, and neither runs."""
    sending = two.send(*CRAWLING, source)
    got = two.fetch(sending.ticket, env=two.here)
    got.moved(8 * MIB)
    for process in (got, sending):
        process.signal(signal.SIGKILL)
        process.end()
    code, said = at_a_terminal(verb, sending.ticket[6:12], env=two.here)
    assert code == 0
    assert f"; what had arrived in {two.out} is removed" in said
    assert two.left_over == []
    with closing(Ledger(ledger_of(two.here))) as ledger:
        assert ledger.unfinished("send") + ledger.unfinished("fetch") == []


def test_a_cancelled_send_that_is_resumed_says_so_and_is_forgotten(
    two: Two, elsewhere: Mapping[str, str]
) -> None:
    waiting = two.send(two.file("f", 100_000), "--wait", "30s")
    waiting.event(events.Waiting)
    waiting.signal(signal.SIGKILL)
    waiting.end()
    job = Ticket.parse(waiting.ticket).job
    assert two.start("cancel", job, env=elsewhere).code == 0
    said = complaint(two.start("resume", "--json"))
    assert (said.code, said.message) == (4, "this transfer was cancelled by its owner")
    assert listed(two, two.here) == []


def test_what_is_complete_says_so_when_it_is_to_be_resumed(two: Two) -> None:
    ticket = two.store(two.file("f", 1000), "--fetches", "1")
    job = Ticket.parse(ticket).job
    stored = complaint(two.start("resume", "--json", job[:10]))
    assert stored.code == 4
    assert stored.message.startswith(f"the transfer {job} is complete, and stored until ")
    assert stored.next.startswith("nothing is left to resume: it can be fetched; `xfer status ")
    assert two.fetch(ticket).code == 0
    delivered = complaint(two.start("resume", "--json", job))
    assert delivered.message == (
        f"the transfer {job} is complete: it has been delivered, and is not kept any longer"
    )
    assert two.start("rm", job).code == 0
    gone = complaint(two.start("resume", "--json", job))
    assert gone.code == 4
    assert gone.message == (
        f"nothing called '{job}' is unfinished on this host, and no job of yours is called so:"
        " it is complete, has expired, or was removed"
    )


def test_what_its_servers_do_not_know_any_more_is_told_and_stays_until_it_is_resumed(
    two: Two, elsewhere: Mapping[str, str]
) -> None:
    waiting = two.send(two.file("f", 100_000), "--wait", "30s")
    waiting.event(events.Waiting)
    waiting.signal(signal.SIGKILL)
    waiting.end()
    assert two.start("rm", Ticket.parse(waiting.ticket).job, env=elsewhere).code == 0
    shown = two.start("resume", "--list", "--json").end()
    assert "its servers know of it no more; it has expired, or was removed" in notices(shown)
    assert [job.label for job in listed(two, two.here)] == ["f"]
    assert complaint(two.start("resume", "--json")).code == 4
    assert listed(two, two.here) == []


# --- a source that changed


def test_a_file_that_changed_since_a_part_was_stored_ends_it_until_no_resume_voids_that(
    two: Two, source: Path
) -> None:
    first = killed(two, source)
    (begun,) = listed(two, two.here)
    with open(source, "r+b") as file:
        file.write(b"another")
    said = complaint(two.send("--wait", "0", source))
    assert (said.code, said.kind) == (6, "SourceChanged")
    assert said.message == "source has changed since an earlier run stored a part of this"
    assert said.next.startswith(f"`xfer resume {begun.job}` compares the bytes and goes on if they are the ")
    assert said.next.endswith("; else pass --no-resume to give that up and send what is there now")
    compared = complaint(two.start("resume", "--json", begun.job))
    assert (compared.code, compared.kind) == (6, "SourceChanged")
    assert "--no-resume" in compared.next
    assert compared.next.endswith(f"`xfer cancel {begun.job}`")
    assert [job.begun for job in listed(two, two.here)] == [begun.begun]
    anew = two.send("--wait", "0", "--no-resume", source)
    assert anew.summary.outcome == "stored"
    assert anew.ticket != first.ticket
    assert complaint(two.fetch(first.ticket)).kind == "CutShort"
    assert two.fetch(anew.ticket).code == 0
    assert listed(two, two.here) == []


def test_of_a_folder_the_new_file_is_named_and_not_the_folder(two: Two, source: Path) -> None:
    folder = two.tmp / "folder"
    folder.mkdir()
    source.rename(folder / "source")
    killed(two, folder)
    (folder / "a new one").touch()
    said = complaint(two.send("--wait", "0", folder))
    assert said.message == "folder/a new one is new since an earlier run stored a part of this"
    assert said.next == "pass --no-resume to give that up and send what is there now"


def test_a_file_that_changed_before_anything_was_stored_is_a_new_job_and_the_old_one_void(two: Two) -> None:
    source = two.file("f", 100_000)
    first = two.send(source)
    first.event(events.Waiting)
    first.signal(signal.SIGKILL)
    first.end()
    source.write_bytes(b"another")
    second = two.send(source, "--wait", "0")
    assert second.summary.outcome == "stored"
    assert second.ticket != first.ticket
    assert "f has changed since an earlier run, which stored nothing" in notices(second)
    assert complaint(two.fetch(first.ticket)).kind == "CutShort"


# --- on another host


def test_another_host_with_the_same_file_and_the_ticket_goes_on_while_a_fetch_runs(
    two: Two, source: Path, elsewhere: Mapping[str, str]
) -> None:
    first = killed(two, source, whole=True)
    got = two.fetch(first.ticket)
    got.moved(8 * MIB)  # so the first segment is complete
    copies = two.tmp / "copies"
    copies.mkdir()
    copy = Path(shutil.copyfile(source, copies / "source"))
    copy.chmod(0o600)
    note = two.tmp / "ticket"
    note.write_text(first.ticket)
    with open(copy, "r+b") as file:
        file.seek(5 * MIB)
        right = file.read(1)
        file.seek(5 * MIB)
        file.write(bytes([right[0] ^ 1]))
        file.flush()
        said = complaint(two.send("--ticket-from", note, copy, env=elsewhere))
        assert (said.code, said.kind) == (6, "SourceChanged")
        assert said.message == "source does not hold the bytes that are stored of it"
        file.seek(5 * MIB)
        file.write(right)
    second = two.send("--ticket-from", note, copy, env=elsewhere)
    assert second.summary.outcome == "stored"
    assert second.ticket == first.ticket
    assert second.summary.kept >= 8
    assert second.summary.wire < SIZE - 8 * MIB + MIB
    assert got.summary.digest == second.summary.digest
    assert (two.out / "source").read_bytes() == source.read_bytes()
    assert (two.out / "source").stat().st_mode == source.stat().st_mode
    assert (two.out / "source").stat().st_mtime_ns == source.stat().st_mtime_ns
    assert listed(two, elsewhere) == []
    third = two.send("--ticket", first.ticket, copy, env={**elsewhere, "XFER_HOME": str(two.tmp / "third")})
    assert (third.summary.outcome, third.summary.wire) == ("stored", 0)


@pytest.mark.long
async def test_what_is_stored_beyond_a_gap_is_given_up_by_another_host(
    two: Two, source: Path, elsewhere: Mapping[str, str]
) -> None:
    """Nothing tells what it holds: here, bytes that no receiver could read."""
    first = killed(two, source)
    job = Ticket.parse(first.ticket).job
    async with connected(context_of(two), "test", Patience(5)) as (_, broker):
        status = await broker.status(job, take_over=True)
        number = max([*status.complete, *status.open_uploads]) + 2
        upload = await broker.begin(job, number)
        signed = await broker.sign_part(job, number, upload, api.PartToSign(1, 100, crc(bytes(100))))
        put = HTTP.request("PUT", signed.url, body=bytes(100), headers=signed.headers)
        part = api.StoredPart(1, put.headers["ETag"].strip('"'), 100, crc(bytes(100)))
        await broker.complete(job, number, upload, [part], 50)
        assert (await broker.status(job)).complete[-1] == number
    second = two.send("--ticket", first.ticket, source, env=elsewhere)
    assert second.summary.outcome == "stored"
    assert two.fetch(first.ticket).summary.digest == second.summary.digest


@pytest.mark.long
def test_another_user_cannot_go_on_with_it(two: Two, place: Place, broker: Path, source: Path) -> None:
    shared = {name: value for name, value in two.here.items() if name != "NATS_CREDS"}
    alice = {**shared, "NATS_URL": place.nats_url, "XFER_USER": "alice"}
    first = two.send(source, env=alice)
    first.event(events.Waiting)
    first.signal(signal.SIGKILL)
    bob = {**alice, "XFER_USER": "bob", "XFER_HOME": str(two.tmp / "bob")}
    said = complaint(two.send("--ticket", first.ticket, source, env=bob))
    assert (said.code, said.kind) == (7, "NotAllowed")
    assert said.message == "that transfer is of user alice, and this is user bob"


@pytest.mark.long
def test_a_job_that_is_void_cannot_be_gone_on_with(two: Two, elsewhere: Mapping[str, str]) -> None:
    source = two.file("f", 1000)
    first = two.send(source)
    first.event(events.Waiting)
    assert complaint(two.send("--ticket", first.ticket, source)).code == 11
    first.signal(signal.SIGKILL)
    first.end()
    assert two.send("--no-resume", "--wait", "0", source).code == 0
    for env in (two.here, elsewhere):
        assert complaint(two.send("--ticket", first.ticket, source, env=env)).code == 4


@pytest.mark.long
def test_the_first_host_goes_on_after_another_one_did(
    two: Two, source: Path, elsewhere: Mapping[str, str]
) -> None:
    """Under the same segment numbers lies what another host stored: the ledger must not be believed."""
    first = killed(two, source, whole=True)
    second = two.send(*SLOWLY, "--ticket", first.ticket, source, env=elsewhere)
    second.moved(SIZE // 3 * 2)
    second.signal(signal.SIGKILL)
    second.end()
    third = two.send("--wait", "0", source)
    assert third.summary.outcome == "stored"
    assert third.ticket == first.ticket
    assert third.summary.kept >= SIZE // MIB // 3
    assert two.fetch(first.ticket).summary.resent == 0
    assert (two.out / "source").read_bytes() == source.read_bytes()


@pytest.mark.long
def test_a_ledger_that_lost_its_last_commits_learns_from_the_store(two: Two, source: Path) -> None:
    first = killed(two, source, whole=True)
    with closing(sqlite3.connect(ledger_of(two.here))) as ledger, ledger:
        assert ledger.execute("SELECT count(*) FROM segments WHERE size > 0").fetchone()[0] >= 1
        ledger.execute("DELETE FROM segments")
        ledger.execute("DELETE FROM parts")
    second = two.send("--wait", "0", source)
    assert second.summary.kept >= 8
    assert second.ticket == first.ticket
    assert two.fetch(first.ticket).code == 0
    assert (two.out / "source").read_bytes() == source.read_bytes()


@pytest.mark.long
def test_a_file_that_was_only_touched_goes_on_with_its_ticket(two: Two, source: Path) -> None:
    first = killed(two, source, whole=True)
    source.touch()
    assert complaint(two.send("--wait", "0", source)).code == 6
    (job,) = listed(two, two.here)
    going = two.start("resume", "--json", "--bwlimit", "2MiB", job.job)
    going.event(events.RouteChosen)
    going.signal(signal.SIGKILL)
    going.end()
    (again,) = listed(two, two.here)
    assert again.number != job.number, "it was taken up by its bytes"
    assert again.begun == job.begun
    assert two.start("resume", "--json", job.job).summary.kept >= 8
    assert two.fetch(first.ticket).code == 0
    assert listed(two, two.here) == []


@pytest.mark.long
@pytest.mark.parametrize("share", [0.2, 0.4, 0.6])
def test_after_a_kill_at_most_twice_the_concurrency_of_parts_is_sent_again(
    two: Two, source: Path, share: float
) -> None:
    sending = two.send(*SLOWLY, source)
    sending.moved(int(SIZE * share))
    sending.signal(signal.SIGKILL)
    sending.end()
    with closing(Ledger(ledger_of(two.here))) as ledger:
        (row,) = ledger.unfinished("send")
        parts = ledger.parts(row)
    made = sum(frame.kind is Kind.CHUNK for part in parts for frame in part.frames)
    largest = max(len(part.frames) for part in parts)
    again = two.send(*SLOWLY, source).summary
    assert again.chunks == SIZE // MIB
    assert made - again.kept <= 2 * 2 * largest


@pytest.mark.long
def test_of_two_killed_sends_of_one_file_each_is_taken_up_by_one(two: Two) -> None:
    source = two.file("f", 100_000)
    killed = [two.send(source) for _ in range(2)]
    for process in killed:
        process.event(events.Waiting)
    for process in killed:
        process.signal(signal.SIGKILL)
        process.end()
    assert {two.send(source).ticket for _ in range(2)} == {process.ticket for process in killed}


@pytest.mark.long
def test_another_host_serves_a_receiver_directly_if_nothing_is_stored(
    two: Two, elsewhere: Mapping[str, str]
) -> None:
    source = two.file("f", 100_000)
    first = two.send(source)
    first.event(events.Waiting)
    first.signal(signal.SIGKILL)
    second = two.send("--ticket", first.ticket, source, env=elsewhere)
    assert two.fetch(first.ticket).summary.route == "webrtc"
    assert second.summary.outcome == "receipt"
    late = complaint(two.send("--ticket", first.ticket, source, env={**elsewhere, "XFER_HOME": str(two.tmp)}))
    assert (late.code, late.message) == (4, "that transfer has been delivered, and is not kept any longer")


@pytest.mark.long
def test_a_folder_goes_on_elsewhere_with_the_times_and_modes_it_had(
    two: Two, source: Path, elsewhere: Mapping[str, str]
) -> None:
    folder = make_tree(two.tmp / "folder", 300)
    source.rename(folder / "source")
    first = killed(two, folder, whole=True)  # another host sees only those
    copy = two.tmp / "elsewhere" / "folder"
    shutil.copytree(folder, copy, symlinks=True, copy_function=shutil.copyfile)
    (copy / "locked").chmod(0o700)
    assert two.send("--ticket", first.ticket, copy, env=elsewhere).summary.kept >= 8
    assert two.fetch(first.ticket).code == 0
    same_tree(folder, two.out / "folder")


@pytest.mark.long
def test_other_servers_know_nothing_of_a_job_and_end_nothing_of_it(
    two: Two, place: Place, broker: Path, source: Path
) -> None:
    """Whoever names the wrong context must not lose what was begun with the right one."""
    first = killed(two, source, whole=True)
    got = two.fetch(first.ticket)
    got.moved(8 * MIB)
    got.signal(signal.SIGKILL)
    wrong = ("--context", "wrong")
    for env in (two.here, two.there):
        shared = {name: value for name, value in env.items() if not name.startswith("NATS_")}
        added = two.start("context", "add", "wrong", "--nats-url", place.nats_url, env=shared)
        assert added.code == 0, added.stderr
        plain = {**shared, "XFER_USER": "alice"}
        if env is two.here:
            anew = two.send(*wrong, "--wait", "0", source, env=plain)
            assert anew.summary.kept == 0
            assert anew.ticket != first.ticket
        else:
            said = complaint(two.fetch(first.ticket, *wrong, env=plain))
            assert said.code == 4
            assert "with the context environment" in said.next
            assert len(two.left_over) == 1
    assert two.start("resume", "--json").summary.kept >= 8
    assert two.fetch(first.ticket).summary.kept >= 8
    assert (two.out / "source").read_bytes() == source.read_bytes()
