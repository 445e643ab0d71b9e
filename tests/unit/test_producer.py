"""A command whose output is sent: nothing of it outlives the send, and it may fail."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from transfer import producer
from transfer.errors import CommandFailed
from transfer.producer import Command

SOON = 20.0
"""Seconds after which a test gives up on what should be soon."""
pytestmark = pytest.mark.skipif(os.name != "posix", reason="a shell and process groups")


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have one."""
    monkeypatch.setattr(producer, "_have_terminal", lambda: False)


def everything(command: Command) -> bytes:
    said = b""
    while piece := command.read(100):
        said += piece
    return said


def test_what_it_writes_is_read_to_its_end_and_its_status_is_the_verdict() -> None:
    command = Command("echo one; exit 3")
    assert everything(command) == b"one\n"
    with pytest.raises(CommandFailed, match="failed with exit code 3"):
        command.verdict()
    command.close()


def test_a_signal_that_ends_it_is_a_failure() -> None:
    command = Command("kill -9 $$")
    assert everything(command) == b""
    with pytest.raises(CommandFailed, match="was killed by signal 9"):
        command.verdict()
    command.close()


def test_what_is_never_read_never_runs(tmp_path: Path) -> None:
    command = Command(f"touch {tmp_path}/ran; echo")
    command.close()
    assert command.read(10) == b""
    assert not (tmp_path / "ran").exists()


def no_reader_is_left(fifo: Path) -> bool:
    """Soon: who was killed is gone for its parent before the kernel has closed its files."""
    deadline = time.monotonic() + SOON
    while time.monotonic() < deadline:
        try:
            os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
        except OSError as error:
            return error.errno == errno.ENXIO
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("stubborn", [False, True])
def test_closing_it_ends_all_that_it_has_started_although_a_read_is_under_way(
    tmp_path: Path, stubborn: bool
) -> None:
    os.mkfifo(fifo := tmp_path / "fifo")
    feed = os.open(fifo, os.O_RDWR)
    deaf = "trap '' TERM; " if stubborn else ""
    command = Command(f"{deaf}cat '{fifo}' | cat; true")
    ends: list[bytes] = []
    try:
        os.write(feed, b"up")
        assert command.read(100) == b"up"
        reader = threading.Thread(target=lambda: ends.append(command.read(100)), daemon=True)
        reader.start()
        deadline = time.monotonic() + SOON
        while not command._reading.locked() and time.monotonic() < deadline:
            os.sched_yield()
        command.close()
        assert command._process is not None
        assert command._process.returncode is not None, "it was reaped"
        reader.join(SOON)  # the pipe has ended, so nobody holds it any more
        assert ends == [b""]
        assert command._process.stdout is not None
        assert command._process.stdout.closed
    finally:
        os.close(feed)
    assert no_reader_is_left(fifo)
    with pytest.raises(CommandFailed):
        command.verdict()


def test_what_it_leaves_in_the_background_when_it_has_ended_is_its_own_affair(tmp_path: Path) -> None:
    os.mkfifo(fifo := tmp_path / "fifo")
    feed = os.open(fifo, os.O_RDWR)
    command = Command(f"cat '{fifo}' >{tmp_path}/late 2>&1 & echo done")
    try:
        assert everything(command) == b"done\n"
        command.verdict()
        command.close()
        os.write(feed, b"alive")
        deadline = time.monotonic() + SOON
        while (not (late := tmp_path / "late").exists() or late.read_bytes() != b"alive") and (
            time.monotonic() < deadline
        ):
            time.sleep(0.01)
        assert (tmp_path / "late").read_bytes() == b"alive"
    finally:
        os.close(feed)
