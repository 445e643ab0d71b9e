"""What a script, a CI job and a cron line rely on: exit codes, silence, deadlines, keys, events beside the payload."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from helpers import MIB, SOON, XFER, Background, Two, complaint

from transfer.errors import EXIT_CODES
from transfer.events import AnyEvent, Failure, Notice, Progress, Summary, TicketReady

posix_only = pytest.mark.skipif(os.name != "posix", reason="descriptors and signals as POSIX has them")
SIZE = 48 * MIB
SLOWLY = ("--via", "s3", "--bwlimit", "2MiB", "--concurrency", "1")
MISTYPED = "xfer1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq"


def ran(
    args: list[str], env: Mapping[str, str], *, cwd: Path, **more: object
) -> subprocess.CompletedProcess[bytes]:
    """To its end, with neither a terminal nor a stdin."""
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    return subprocess.run([*XFER, *args], env=dict(env), cwd=cwd, timeout=2 * SOON, check=False, **options)  # type: ignore[call-overload, no-any-return]


# --- exit codes


def test_every_exit_code_is_reached(two: Two) -> None:
    """Each by the plainest way there is; on failure stderr has one line, on success none."""
    file = two.file("f", 1000)
    reached: dict[str, int] = {}

    def xfer(
        *args: object, env: Mapping[str, str] | None = None, lines: int = 1
    ) -> subprocess.CompletedProcess[bytes]:
        done = ran([str(arg) for arg in args], env or two.here, cwd=two.out)
        assert len(done.stderr.splitlines()) == (lines if done.returncode else 0), done.stderr
        reached[str(done.returncode)] = reached.get(str(done.returncode), 0) + 1
        return done

    sent = xfer("send", file, "--wait", "0")
    ticket = sent.stdout.decode().strip()
    assert (sent.returncode, ticket[:5]) == (0, "xfer1")
    fetch = {**two.there, "XFER_TICKET": ticket}
    assert xfer("fetch", "-o", "g", env=fetch).stdout == b""
    assert xfer("fetch", "-o", "g", env=fetch).returncode == 8
    assert xfer("fetch", MISTYPED).returncode == 12
    assert xfer("send", "absent").returncode == 2
    assert xfer("send", "--from-command", "exit 1", "--name", "x").returncode == 3
    assert xfer("status", "q" * 16).returncode == 4
    assert xfer("send", file, env={**two.here, "NATS_URL": "nats://127.0.0.1:9"}).returncode == 5
    assert xfer("send", file, env={**two.here, "XFER_USER": "somebody"}).returncode == 7
    assert xfer("resume", "--error-on-nothing").returncode == 9
    assert xfer("resume").returncode == 0
    late = xfer("send", file, "--via", "webrtc", "--wait", "forever", "--deadline", "6s")
    assert late.returncode == 10, late.stderr
    assert b"the deadline passed before it was done" in late.stderr
    assert b"; carry on with `xfer send " in late.stderr

    # 1: the state folder is a file. 6: the sender of a stream failed. 11, 130: while one is under way.
    (two.tmp / "home-odd").mkdir()
    (two.tmp / "home-odd" / "state").write_text("")
    assert xfer("resume", env={**two.here, "XFER_HOME": str(two.tmp / "home-odd")}).returncode == 1
    slow = two.file("slow", SIZE)
    key = ("--idempotency-key", "exit codes")
    first = two.start("send", slow, *SLOWLY, *key)
    assert first.ticket
    assert xfer("send", slow, *key).returncode == 11
    first.signal(signal.SIGINT)
    reached[str(first.code)] = 1
    assert first.stderr.startswith("xfer: interrupted; carry on with `xfer send "), first.stderr
    void = two.send("--from-command", "echo some; exit 1", "--name", "x")
    assert xfer("fetch", void.ticket, env=two.there).returncode == 6
    assert {"128+n" if int(code) > 127 else code for code in reached} == set(EXIT_CODES)


# --- deadlines


def test_a_deadline_makes_a_checkpoint_and_the_next_run_goes_on(two: Two) -> None:
    slow = two.file("slow", SIZE)
    first = two.send(slow, *SLOWLY, "--deadline", "5s")
    said = complaint(first)
    assert (said.code, said.kind) == (10, "OutOfTime")
    assert said.next.startswith("carry on with `xfer send ")
    assert "--deadline 5s" in said.next
    begun = [event for event in first.events if isinstance(event, TicketReady)]
    second = two.send(slow, "--via", "s3", env={**two.here, "XFER_DEADLINE": "10m"})
    assert second.summary.outcome == "stored"
    assert [event.ticket for event in begun] in ([], [second.ticket])

    fetching = two.fetch(second.ticket, "--bwlimit", "4MiB", "--deadline", "5s")
    assert complaint(fetching).code == 10
    assert two.arrived == []
    assert two.fetch(second.ticket).summary.bytes == SIZE
    assert (two.arrived, two.left_over) == (["slow"], [])


def test_a_deadline_voids_a_stream_and_ends_its_command(two: Two) -> None:
    pid = two.tmp / "pid"
    sending = two.send(
        "--from-command", f"echo $$ > {pid}; echo begun; sleep 600", "--name", "x", "--deadline", "6s"
    )
    assert complaint(sending).code == 10
    assert "a stream cannot be resumed" in complaint(sending).next
    if pid.exists():  # unless the machine is that slow
        assert is_gone(int(pid.read_text()))


@posix_only
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_send_ends_its_command_with_all_it_has_started(
    two: Two, signum: signal.Signals
) -> None:
    pids = two.tmp / "pids"
    command = f"(echo pid; exec sh -c 'echo $$ >> {pids}; exec sleep 600') | tee -a {pids}.2 & echo $$ >> {pids}; wait"
    sending = two.send("--from-command", command, "--name", "x")
    deadline = time.monotonic() + SOON
    while not pids.exists() or len(pids.read_text().split()) < 2:
        assert time.monotonic() < deadline, sending.stderr
        time.sleep(0.02)
    sending.signal(signum)
    assert complaint(sending).code == 128 + signum
    assert all(is_gone(int(pid)) for pid in pids.read_text().split())


def is_gone(pid: int) -> bool:
    """Ended; perhaps nobody has reaped it who should have."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return sys.platform == "linux" or subprocess.run(["ps", "-p", str(pid)], check=False).returncode != 0
    return state in "ZX"


# --- idempotency keys


def test_with_a_key_it_is_one_transfer_whatever_became_of_the_runs(two: Two) -> None:
    slow = two.file("slow", SIZE)
    other = two.file("other", 1000)

    def keyed(key: str, *args: object) -> Background:
        return two.send("--via", "s3", *args, env={**two.here, "XFER_IDEMPOTENCY_KEY": key})

    first = keyed("monday", slow, *SLOWLY)
    assert first.ticket
    busy = complaint(keyed("monday", slow))
    assert (busy.code, busy.message) == (11, "another run sends with this idempotency key")
    first.moved(9 * MIB)  # one part at a time: the first has arrived
    first.signal(signal.SIGKILL)
    assert first.code == -signal.SIGKILL

    unlike = complaint(keyed("monday", other))
    assert (unlike.code, unlike.next) == (2, "use another idempotency key")
    assert "the idempotency key 'monday' was used for something else" in unlike.message
    tuesday = keyed("tuesday", slow, *SLOWLY)
    assert tuesday.ticket != first.ticket, "a key has a job of its own"
    tuesday.signal(signal.SIGKILL)
    tuesday.end()

    second = keyed("monday", slow)
    assert second.ticket == first.ticket
    assert second.summary.kept > 0
    third = keyed("monday", slow)
    assert (third.ticket, third.summary) == (first.ticket, second.summary)
    assert not any(isinstance(event, Progress) for event in third.events)
    assert "nothing is sent again" in third.event(Notice).text
    plain = ran(["send", str(slow), "--idempotency-key", "monday"], two.here, cwd=two.out)
    assert (plain.returncode, plain.stdout.decode(), plain.stderr) == (0, first.ticket + "\n", b"")
    assert two.fetch(first.ticket).summary.bytes == SIZE
    resumed = two.start("resume", "--json")
    assert resumed.summary.outcome == "stored"
    assert keyed("tuesday", slow).summary == resumed.summary, "however it was gone on with"
    unlike = complaint(keyed("monday", other))
    assert (unlike.code, unlike.kind) == (2, "UsageError")

    cancelled = ran(["cancel", first.event(TicketReady).job], two.here, cwd=two.out)
    assert cancelled.returncode == 0, cancelled.stderr
    said = complaint(keyed("monday", slow))
    assert (said.code, said.kind, said.next) == (
        4,
        "JobCancelled",
        "use another idempotency key to send it again",
    )


def test_what_was_received_and_is_gone_is_not_sent_again_with_its_key(two: Two) -> None:
    file = two.file("f", 5 * MIB)
    sending = two.send(file, "--via", "webrtc", "--idempotency-key", "k", "--fetches", "1")
    assert two.fetch(sending.ticket).code == 0
    assert sending.summary.outcome == "receipt"
    again = two.send(file, "--via", "webrtc", "--idempotency-key", "k")
    assert (again.ticket, again.summary) == (sending.ticket, sending.summary)
    os.utime(file)
    assert complaint(two.send(file, "--idempotency-key", "k")).code == 2


def test_with_a_key_a_stream_is_sent_anew_after_a_kill_and_not_after_its_end(two: Two) -> None:
    killed = two.stream("--idempotency-key", "nightly")
    killed.feed(os.urandom(9 * MIB))
    assert killed.ticket
    killed.signal(signal.SIGKILL)
    assert killed.code == -signal.SIGKILL
    sending = two.stream("--idempotency-key", "nightly")
    sending.feed(b"the whole of it")
    sending.hang_up()
    assert sending.summary.outcome == "stored"
    assert sending.ticket != killed.ticket
    assert complaint(two.fetch(killed.ticket)).code == 6, "it is void"
    again = two.stream("--idempotency-key", "nightly")
    again.feed(b"the whole of it")
    again.hang_up()
    assert (again.ticket, again.summary) == (sending.ticket, sending.summary)
    longer = subprocess.run(
        f"set -euo pipefail; seq 1000000 | {shlex.join([*XFER, 'send', '-', '--name', 'stream'])} --idempotency-key nightly",
        shell=True, executable="/bin/bash", env={**two.here}, capture_output=True, timeout=120,
    )  # fmt: skip
    assert (longer.returncode, longer.stdout) == (2, b""), "not SIGPIPE's 141"
    assert b"what came in the pipe was other than this" in longer.stderr
    mark = two.tmp / "mark"
    command = ("--from-command", f"echo >> {mark}; echo made", "--name", "made", "--idempotency-key", "made")
    assert two.send(*command).summary.bytes == 5
    assert two.send(*command).summary.bytes == 5
    assert mark.read_text() == "\n", "it ran once"
    assert complaint(two.send(*command[:3], "renamed", *command[4:])).code == 2


def test_a_key_is_of_one_room_and_posts_there_once(two: Two) -> None:
    file = two.file("f", 1000)
    assert two.send(file, "--wait", "0", "--idempotency-key", "k").summary.outcome == "stored"
    for room in ("day", "night"):
        assert two.start("room", "new", room).code == 0
        for _ in range(2):
            assert two.send(file, "--room", room, "--idempotency-key", "k").summary.outcome == "stored"
        shown = two.start("room", "show", room, "--json")
        assert shown.code == 0
        assert len(json.loads(shown.stdout)["items"]) == 1


@pytest.mark.parametrize("more", [("--no-resume",), ("--ticket", "T")])
def test_a_key_goes_with_nothing_that_says_otherwise_which_job_it_is(two: Two, more: tuple[str, ...]) -> None:
    file = two.file("f", 10)
    if more[0] == "--ticket":
        more = ("--ticket", two.store(file))
    said = complaint(two.send(file, "--idempotency-key", "k", *more))
    assert (said.code, said.next) == (2, "drop one of them")
    assert complaint(two.send(file, "--idempotency-key", "k" * 201)).code == 2


# --- events beside the payload


@posix_only
def test_events_go_to_a_descriptor_while_stdout_has_the_payload(two: Two) -> None:
    file = two.file("f", 5 * MIB)

    def with_events(
        *args: str, env: Mapping[str, str]
    ) -> tuple[subprocess.CompletedProcess[bytes], list[AnyEvent]]:
        path = two.tmp / "events"
        with open(path, "wb") as out:
            number = str(out.fileno())
            done = ran([*args], {**env, "XFER_EVENTS_FD": number}, cwd=two.out, pass_fds=(out.fileno(),))
        return done, [msgspec.json.decode(line, type=AnyEvent) for line in path.read_bytes().splitlines()]

    sent, events = with_events("send", str(file), "--wait", "0", env=two.here)
    ticket = sent.stdout.decode().strip()
    assert (sent.returncode, sent.stderr) == (0, b"")
    assert [event.ticket for event in events if isinstance(event, TicketReady)] == [ticket]
    assert isinstance(events[-1], Summary)

    got, events = with_events("fetch", "-o", "-", env={**two.there, "XFER_TICKET": ticket})
    assert (got.returncode, got.stdout == file.read_bytes(), got.stderr) == (0, True, b"")
    assert isinstance(events[-1], Summary)
    assert events[-1].outcome == "fetched"

    got, events = with_events("fetch", "-o", "-", env={**two.there, "XFER_TICKET": MISTYPED})
    assert isinstance(events[-1], Failure)
    assert events[-1].code == got.returncode == 12


@posix_only
def test_who_watches_and_leaves_ends_no_transfer(two: Two) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    try:
        args = ["send", str(two.file("f", 1000)), "--wait", "0", "--events-fd", str(theirs)]
        done = ran(args, two.here, cwd=two.out, pass_fds=(theirs,))
    finally:
        os.close(theirs)
    assert (done.returncode, done.stderr) == (0, b"")


@posix_only
@pytest.mark.parametrize("side", ["send", "fetch"])
@pytest.mark.parametrize(
    ("opened", "said"),
    [("7>&-", "--events-fd 7 is not open"), ("7</dev/null", "--events-fd 7 is open for reading only")],
)
def test_a_descriptor_that_takes_nothing_is_wrong_usage_before_anything_begins(
    two: Two, side: str, opened: str, said: str
) -> None:
    """The rest would fail as well, later: neither path nor ticket is one."""
    command = f'exec "$@" {opened}'
    done = subprocess.run(
        ["sh", "-c", command, "sh", *XFER, side, "nonsense", "--events-fd", "7"],
        env=two.here, cwd=two.tmp, capture_output=True, text=True, timeout=SOON, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"xfer: {said};")
    assert done.stderr.count("\n") == 1


# --- silence, and variables of each kind


def test_a_warning_is_said_also_where_success_is_silent(two: Two) -> None:
    folder = two.tmp / "folder"
    folder.mkdir()
    (folder / "file").write_text("x")
    os.mkfifo(folder / "pipe")
    done = ran(["send", str(folder), "--wait", "0"], two.here, cwd=two.out)
    assert (done.returncode, done.stderr) == (0, b"folder/pipe is a named pipe and is left out\n")
    assert ran(["send", str(folder), "--wait", "0", "-q"], two.here, cwd=two.out).stderr == b""


def test_a_flag_a_value_and_a_list_may_each_be_a_variable(two: Two) -> None:
    folder = two.tmp / "folder"
    folder.mkdir()
    for name in ("a.tmp", "b.o", "c.txt"):
        (folder / name).write_text(name)
    variables = {"XFER_EXCLUDE": "*.tmp *.o", "XFER_WAIT": "0", "XFER_JSON": "1", "XFER_EXPIRE": "2h"}
    sent = ran(["send", str(folder)], {**two.here, **variables}, cwd=two.out)
    assert sent.returncode == 0, sent.stderr
    events = [msgspec.json.decode(line, type=AnyEvent) for line in sent.stdout.splitlines()]
    ticket = next(event.ticket for event in events if isinstance(event, TicketReady))
    assert isinstance(events[-1], Summary)
    assert (events[-1].outcome, events[-1].files) == ("stored", 1)
    got = ran(["fetch"], {**two.there, "XFER_TICKET": str(ticket), "XFER_OUTPUT": "here/"}, cwd=two.out)
    assert (got.returncode, got.stdout, got.stderr) == (0, b"", b"")
    assert os.listdir(two.out / "here" / "folder") == ["c.txt"]
