"""Bytes without a file: stdin, a command's output, and stdout at the other end."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import MIB, SOON, XFER, Two, complaint

from transfer import events


def piped(two: Two, ticket: str, *args: str) -> subprocess.CompletedProcess[bytes]:
    """`xfer fetch -o -` with its stdout in a pipe."""
    command = [*XFER, "fetch", "-o", "-", *args]
    env = {**two.there, "XFER_TICKET": ticket}
    return subprocess.run(command, env=env, cwd=two.out, capture_output=True, check=False, timeout=SOON)


def writer(two: Two, *, then: int, size: int = 6 * MIB) -> str:
    """A command that writes so many bytes, and ends with that exit code."""
    script = two.tmp / "write.py"
    script.write_text(
        f"import os, sys\nfor _ in range({size} // 65536): os.write(1, os.urandom(65536))\nsys.exit({then})\n"
    )
    return shlex.join([sys.executable, str(script)])


@pytest.mark.parametrize("size", [1, 4 * MIB, 9 * MIB + 17])
def test_stdin_of_unknown_length_arrives_whole(two: Two, size: int) -> None:
    data = os.urandom(size)
    sending = two.stream("--name", "dump.sql")
    sending.feed(data)
    sending.hang_up()
    assert (sending.summary.outcome, sending.summary.route, sending.summary.bytes) == ("stored", "s3", size)
    assert sending.event(events.RouteChosen).reason == "its length is unknown"
    assert two.fetch(sending.ticket).summary.bytes == size
    assert two.arrived == ["dump.sql"]
    assert (two.out / "dump.sql").read_bytes() == data


def test_empty_stdin_is_an_empty_file(two: Two) -> None:
    sending = two.stream()
    sending.hang_up()
    assert sending.summary.bytes == 0
    assert two.fetch(sending.ticket).summary.bytes == 0
    assert (two.out / "stream").read_bytes() == b""


def test_a_stdin_that_does_not_block_is_read_to_its_end(two: Two) -> None:
    end, feed = os.pipe()
    os.set_blocking(end, False)
    with open(end, "rb") as stdin, open(feed, "wb") as source:
        sending = two.send("-", "--name", "stream", stdin=stdin)
        assert sending.ticket
        for _ in range(3):
            source.write(os.urandom(20_000))
            source.flush()
            time.sleep(0.05)  # so that there is nothing to read in between
    assert sending.summary.bytes == 60_000


def test_a_closed_stdin_exits_2(two: Two) -> None:
    closed = ["sh", "-c", 'exec "$@" <&-', "sh"]
    sent = two.start("send", "--json", "-", "--name", "x", prefix=closed)
    assert (complaint(sent).code, complaint(sent).message) == (2, "stdin is closed")


def test_stdin_without_a_name_exits_2(two: Two) -> None:
    sent = two.send("-")
    assert (complaint(sent).code, complaint(sent).message) == (2, "stdin has no name")


def test_a_stream_by_webrtc_exits_2(two: Two) -> None:
    sending = two.stream("--via", "webrtc")
    assert complaint(sending).code == 2
    assert complaint(sending).message == "a stream of unknown length goes through the store"


def test_an_interrupted_stream_cannot_be_resumed_and_its_receiver_is_told(two: Two) -> None:
    sending = two.stream()
    sending.feed(os.urandom(10 * MIB))
    got = two.fetch(sending.ticket)
    got.moved(MIB)
    sending.signal(signal.SIGTERM)
    assert complaint(sending).code == 143
    assert "a stream cannot be resumed" in complaint(sending).next
    assert complaint(got).code == 6
    assert complaint(got).message == "the sender ended this transfer: the sender was interrupted"
    assert (two.arrived, two.left_over) == ([], [])


@pytest.mark.parametrize("route", ["webrtc", "s3"])
def test_fetch_into_a_pipe_gives_exactly_the_bytes(two: Two, route: str) -> None:
    source = two.file("f", 5 * MIB + 3)
    sending = two.send(source, "--via", route)
    got = piped(two, sending.ticket)
    assert (got.returncode, got.stdout == source.read_bytes()) == (0, True)
    assert sending.summary.route == route
    assert got.stderr == b"", "what is done soon is done in silence"
    assert os.listdir(two.out) == []


def test_stdin_to_stdout_is_a_pipe_between_machines(two: Two) -> None:
    data = os.urandom(9 * MIB)
    sending = two.stream()
    sending.feed(data)
    sending.hang_up()
    got = piped(two, sending.ticket, "--quiet")
    assert (got.returncode, got.stderr, got.stdout == data) == (0, b"", True)


def test_several_entries_to_stdout_are_refused_before_a_byte(two: Two) -> None:
    ticket = two.store(two.file("a", 10), two.file("b", 10))
    got = piped(two, ticket)
    assert (got.returncode, got.stdout) == (2, b"")
    assert b"-o - takes exactly one file, and this transfer has 2 entries; name a folder" in got.stderr


def test_stdout_cannot_take_payload_and_events(two: Two) -> None:
    got = piped(two, "xfer1whatever", "--json")
    assert got.returncode == 2
    assert b"-o - and --json both want stdout" in got.stderr


def test_a_reader_that_leaves_ends_the_fetch_like_a_broken_pipe(two: Two) -> None:
    ticket = two.store(two.file("f", 5 * MIB))
    with open(two.tmp / "err", "wb") as stderr:
        env = {**two.there, "XFER_TICKET": ticket}
        got = subprocess.Popen([*XFER, "fetch", "-o", "-"], env=env, stdout=subprocess.PIPE, stderr=stderr)
        assert got.stdout is not None
        assert len(got.stdout.read(1000)) == 1000
        got.stdout.close()
        assert got.wait(SOON) == 128 + 13
    assert (two.tmp / "err").read_text() == ""


def test_a_reader_that_does_not_read_holds_nobody_up_who_wants_to_leave(two: Two) -> None:
    ticket = two.store(two.file("f", 5 * MIB))
    with open(two.tmp / "err", "wb") as stderr:
        env = {**two.there, "XFER_TICKET": ticket}
        got = subprocess.Popen([*XFER, "fetch", "-o", "-"], env=env, stdout=subprocess.PIPE, stderr=stderr)
        try:
            assert got.stdout is not None
            assert len(got.stdout.read(1000)) == 1000  # and then the pipe fills up
            got.send_signal(signal.SIGINT)
            assert got.wait(10) == 130
        finally:
            got.kill()
            got.communicate()
    assert "xfer: interrupted; carry on with" in (two.tmp / "err").read_text()


def test_the_output_of_a_command_arrives_under_its_name(two: Two) -> None:
    sent = two.send("--from-command", writer(two, then=0), "--name", "made.bin")
    assert sent.summary.bytes == 6 * MIB
    assert two.fetch(sent.ticket).code == 0
    assert (two.out / "made.bin").stat().st_size == 6 * MIB


def test_a_command_that_fails_voids_the_transfer(two: Two) -> None:
    """It fails at its very end, when a receiver has all it wrote."""
    gate = two.tmp / "gate"
    os.mkfifo(gate)
    command = f"{writer(two, then=0, size=9 * MIB)}; cat {shlex.quote(str(gate))}; exit 3"
    sending = two.send("--from-command", command, "--name", "made.bin")
    got = two.fetch(sending.ticket)
    got.moved(8 * MIB)
    gate.write_bytes(b"")
    said = complaint(sending)
    assert (said.code, said.kind) == (3, "CommandFailed")
    assert said.message.endswith("failed with exit code 3")
    assert complaint(got).code == 6
    assert "failed with exit code 3" in complaint(got).message
    assert (two.arrived, two.left_over) == ([], [])
    late = complaint(two.fetch(sending.ticket))
    assert (late.code, late.message) == (6, "the sender ended this transfer before it was complete")
    assert two.arrived == []


def test_a_command_and_paths_together_exit_2(two: Two) -> None:
    sent = two.send("--from-command", "true", "--name", "x", two.file("f", 1))
    assert complaint(sent).code == 2


def test_a_silent_producer_holds_nobody_up_who_wants_to_leave(two: Two) -> None:
    """Nothing comes, and no end of file either: a signal still ends it at once."""
    sending = two.stream()
    assert sending.ticket
    sending.signal(signal.SIGINT)
    assert sending.end(10).code == 130


SLOW_READER = """
import sys, time
count = 0
while piece := sys.stdin.buffer.read(1 << 20):
    count += len(piece)
    time.sleep(0.01)
print(count)
"""
MEASURED = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
sys.stderr.write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
"""


@pytest.mark.long
def test_a_stream_keeps_memory_bounded_when_the_reader_is_slow(two: Two) -> None:
    size = 150 * MIB
    with open(zeros(two.tmp / "zeros", size), "rb") as stdin:
        sending = two.send("-", "--name", "z", "--compress", "off", stdin=stdin)
    assert sending.summary.bytes == size
    env = {**two.there, "XFER_TICKET": sending.ticket}
    command = [sys.executable, "-c", MEASURED, *XFER, "fetch", "-q", "-o", "-"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as got:
        reader = [sys.executable, "-c", SLOW_READER]
        read = subprocess.run(reader, stdin=got.stdout, capture_output=True, check=True, timeout=SOON)
        _, said = got.communicate(timeout=SOON)
    assert int(read.stdout) == size
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(said) * unit < 300 * MIB


def zeros(path: Path, size: int) -> Path:
    with open(path, "wb") as file:
        file.truncate(size)
    return path
