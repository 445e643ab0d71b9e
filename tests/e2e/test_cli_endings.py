"""How a command ends: bugs, groups of errors, signals, the command that resumes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest
from bare import CHILD, TICKET, Child, posix_only

from transfer.ticket import RoomTicket

ROOM = str(RoomTicket("q" * 16, bytes(range(16))))


def test_a_bug_is_one_line_and_its_traceback_a_private_file(child: Child, home: Path) -> None:
    process = child("def work(): raise KeyError('xfer1' + 'q' * 49)")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.startswith("xfer: internal error: KeyError")
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 2
    (log,) = home.rglob("errors/*.txt")
    assert str(log) in err
    text = log.read_text()
    assert "Traceback" in text
    assert "xfer1q" not in text + err
    if os.name == "posix":
        assert log.stat().st_mode & 0o777 == 0o600


def test_a_bug_without_a_state_folder_is_still_one_line(child: Child, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    process = child("def work(): raise KeyError('x')", XFER_HOME=str(tmp_path / "file"))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "internal error" in err
    assert "Traceback" not in err


def test_a_group_exits_with_its_first_own_error(child: Child) -> None:
    process = child(
        "def work(): raise ExceptionGroup('g', [ValueError(), errors.JobGone('it is gone')])",
        ("fetch", "--json"),
    )
    out, err = process.communicate(timeout=60)
    assert process.returncode == 4
    assert err == "xfer: it is gone; ask the sender for a new ticket\n"
    assert json.loads(out)["kind"] == "JobGone"


WAITING = """
async def forever():
    print("ready", flush=True)
    try:
        await asyncio.sleep(60)
    finally:
        print("checkpoint", flush=True)
def work(): cli.run.run(forever, resume=cli.run.same_command())
"""


@posix_only
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_the_first_signal_checkpoints_and_names_the_command_that_resumes(child: Child, name: str) -> None:
    signum = getattr(signal, name)
    process = child(WAITING, ("send", "a file"))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signum)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    assert out == "checkpoint\n"
    assert err == "xfer: interrupted; carry on with `xfer send 'a file'`\n"


@posix_only
def test_the_command_that_resumes_does_not_start_anew(child: Child) -> None:
    process = child(WAITING, ("send", "--no-resume", "f", "--", "--no-resume"))
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert "carry on with `xfer send f -- --no-resume`" in process.communicate(timeout=60)[1]


@posix_only
def test_a_terminal_that_is_closed_costs_no_checkpoint(configured: Mapping[str, str], tmp_path: Path) -> None:
    body = f"""
        import fcntl, termios
        import cli.show
        from transfer.events import Notice, Waiting
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        async def call(*, on_event):
            on_event(Waiting(what="waiting"))
            try:
                await asyncio.sleep(60)
            finally:
                on_event(Notice(text="nobody reads this"))
                open({str(tmp_path / "checkpoint")!r}, "w").close()
        def work(): cli.show.show(call, json=False, quiet=False, resume="")
        """
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(body=textwrap.dedent(body), args=())],
        env={**configured, "TERM": "xterm"}, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    try:
        said = b""
        while b"waiting" not in said:
            said += os.read(ours, 10_000)
        os.close(ours)
        assert process.wait(timeout=60) == 128 + signal.SIGHUP
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / "checkpoint").exists()


@posix_only
@pytest.mark.parametrize(
    "given", [("fetch", TICKET), ("send", f"--ticket={TICKET.upper()}", "f"), ("room", "join", ROOM)]
)
def test_the_command_that_resumes_withholds_a_ticket_where_a_log_may_listen(
    child: Child, given: tuple[str, ...]
) -> None:
    process = child(WAITING, (*given, "-o", "d/"))
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    shown = [
        word.replace(TICKET, "TICKET").replace(ROOM, "TICKET").replace(TICKET.upper(), "TICKET")
        for word in given
    ]
    assert f"carry on with `xfer {' '.join(shown)} -o d/`" in said


def test_a_deadline_says_what_was_waited_for_or_how_far_it_was(child: Child) -> None:
    """One that has passed already strikes at the first wait: whatever was told before that is in the sentence."""
    process = child("""
    import time
    from cli.show import show
    from transfer.events import Notice, Progress, Waiting
    lost, aside = Waiting(what="the connection to NATS is lost", left=9.0, on="bus"), Notice(text="by the way")
    some = Progress(done=3_000_000, total=10_000_000, wire=0, files=1, route="s3", under_way=1_000_000)
    def work():
        for told in ([], [some, lost], [lost, aside], [lost, some]):
            async def call(*, on_event):
                for event in told:
                    on_event(event)
                await asyncio.sleep(60)
            try:
                show(call, json=False, quiet=True, resume="go on", until=time.monotonic())
            except errors.OutOfTime as late:
                print(late.what.removeprefix("the deadline passed before it was done"))
    """)
    out, err = process.communicate(timeout=60)
    lost = ": the connection to NATS is lost"
    assert (out.splitlines(), err) == (["", lost, lost, ": 4.0 MB of 10.0 MB done"], "")


@posix_only
def test_a_second_signal_ends_it_at_once(child: Child) -> None:
    process = child("""
        async def stubborn():
            print("ready", flush=True)
            while True:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    print("not yet", flush=True)
        def work(): cli.run.run(stubborn)
        """)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "not yet\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 128 + signal.SIGTERM


@posix_only
@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_a_signal_that_the_parent_ignores_stays_ignored(child: Child, name: str) -> None:
    process = child(f"""
        import signal
        signal.signal(signal.{name}, signal.SIG_IGN)
        async def short():
            os.kill(os.getpid(), signal.{name})
            await asyncio.sleep(0.01)
            print("whole", flush=True)
        def work(): cli.run.run(short)
        """)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "whole\n")


@posix_only
def test_what_ends_well_despite_a_signal_ended_well(child: Child) -> None:
    process = child("""
        import signal
        async def done():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return
        def work(): cli.run.run(done)
        """)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
