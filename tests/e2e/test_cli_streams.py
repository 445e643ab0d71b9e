"""The command line whose stdin, stdout or stderr is closed, full, or left by its reader."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest
from bare import CHILD, TICKET, Child, posix_only


@posix_only
def test_a_reader_who_leaves_is_no_error(child: Child) -> None:
    process = child("""
        def work():
            while True:
                sys.stdout.buffer.write(bytes(65536))
        """)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(timeout=60) == 141
    assert process.stderr is not None
    assert process.stderr.read() == ""


@posix_only
def test_a_reader_who_left_before_the_last_bytes_is_no_error(child: Child) -> None:
    process = child("""
        def work():
            sys.stdin.readline()
            print("small enough to stay in the buffer until the end")
        """)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=60) == 141
    assert process.stderr is not None
    assert process.stderr.read() == ""


@posix_only
@pytest.mark.parametrize("stderr", ["closed", "full", "unread"])
def test_a_stderr_that_takes_nothing_ends_nothing(env: Mapping[str, str], stderr: str) -> None:
    work = """
        def work():
            for line in range(3):
                print("a notice", file=sys.stderr, flush=True)
            print("the end")
        """
    words = [sys.executable, "-c", CHILD.format(body=textwrap.dedent(work), args=("send", "f"))]
    read, write = os.pipe()
    os.close(read)
    redirect = {"closed": "2>&-", "full": "2>/dev/full", "unread": ""}[stderr]
    with open(write, "wb") as unread:
        run = subprocess.run(
            ["sh", "-c", f'exec "$@" {redirect}', "sh", *words],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=unread,
            text=True,
            timeout=60,
        )
    assert (run.returncode, run.stdout) == (0, "the end\n")


@posix_only
def test_a_ticket_that_could_not_be_told_is_not_made(env: Mapping[str, str], tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    words = [sys.executable, "-P", "-m", "cli", "send", "f"]
    run = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *words],
        env={**env, "NATS_URL": "nats://127.0.0.1:9"},
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        text=True,
        timeout=60,
    )
    assert run.returncode == 2
    assert run.stderr.startswith("xfer: stdout is closed, and the ticket goes there;")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("args", [["--version"], ["send", "--help"], ["context", "ls", "--json"]])
def test_a_stdout_without_room_is_said(args: list[str], env: Mapping[str, str]) -> None:
    with open("/dev/full", "w") as full:
        run = subprocess.run(
            [sys.executable, "-P", "-m", "cli", *args],
            stdout=full,
            stderr=subprocess.PIPE,
            env=env,
            text=True,
            timeout=60,
        )
    assert run.returncode == 5
    assert run.stderr.startswith("xfer: no room left to write to stdout;")
    assert "Traceback" not in run.stderr


@posix_only
def test_another_broken_pipe_is_not_taken_for_the_reader_s(child: Child) -> None:
    process = child("def work(): raise BrokenPipeError('a socket')")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "internal error: BrokenPipeError" in err


@posix_only
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("args", "code"), [("--version", 0), ("context ls", 0), ("send nothing-there", 2)])
def test_closed_streams_change_no_exit_code(
    closed: str, args: str, code: int, env: Mapping[str, str], tmp_path: Path
) -> None:
    ended = in_shell(f"{args} {closed}", env, tmp_path)
    assert "Traceback" not in ended.stderr
    assert ended.returncode == code


@posix_only
def test_a_fetch_to_a_closed_stdout_is_wrong_usage(env: Mapping[str, str], tmp_path: Path) -> None:
    ended = in_shell(f"fetch {TICKET} -o - >&-", env, tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.startswith("xfer: stdout is closed")


def in_shell(words: str, env: Mapping[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """`xfer` with redirections."""
    command = f"exec {sys.executable} -P -m cli {words}"
    return subprocess.run(
        ["sh", "-c", command], cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False
    )
