"""The command line at a terminal: refusals, colour, width."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping

import pytest
from bare import CHILD, posix_only

from tests.screen import Screen


@posix_only
def test_stdin_that_is_a_terminal_is_refused(configured: Mapping[str, str]) -> None:
    ours, theirs = os.openpty()
    try:
        run = subprocess.run(
            [sys.executable, "-m", "cli", "send", "-", "--name", "n"],
            env=configured,
            stdin=theirs,
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert run.returncode == 2
    assert "stdin is a terminal" in run.stderr


@posix_only
@pytest.mark.parametrize(
    ("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_the_label_is_red_on_a_terminal_that_wants_it(
    env: Mapping[str, str], variables: Mapping[str, str], coloured: bool
) -> None:
    ours, theirs = os.openpty()
    kept = {name: value for name, value in env.items() if name != "NO_COLOR"}
    try:
        subprocess.run(
            [sys.executable, "-m", "cli", "frobnicate"],
            env={**kept, "TERM": "xterm", **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=theirs,
            timeout=60,
        )
        said = os.read(ours, 10_000)
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"there is no command" in said
    assert (b"\x1b[" in said) is coloured


@posix_only
@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_a_narrow_terminal_shows_hostile_names_without_a_line_that_wraps(
    configured: Mapping[str, str], term: str
) -> None:
    """The window's width is asked of the terminal itself."""
    import fcntl
    import struct
    import termios

    body = """
        import cli.show
        from transfer.events import FileProgress, Notice, Progress
        async def call(*, on_event):
            names = ["a\\x1b[2J\\u202eb" + "c" * 60, "caf\\udce9", "日本語" * 20]
            for done in range(3):
                on_event(Progress(
                    done=done, total=9, wire=0, files=2000, files_done=7, route="s3",
                    moving=[FileProgress(name, 1, 3) for name in names],
                ))
                on_event(Notice(text=f"{done} of them are there, and more to say than 40 columns hold"))
                await asyncio.sleep(0.3)
            on_event(Notice(text="done"))
        def work(): cli.show.show(call, json=False, quiet=False, resume="")
        """
    env = {
        name: value for name, value in configured.items() if name not in ("COLUMNS", "LINES")
    }  # pytest-xdist's
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(body=textwrap.dedent(body), args=())],
        env={**env, "TERM": term}, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    screen, said = Screen(40), b""
    deadline = time.monotonic() + 60
    try:
        # Our end of its side stays open: what is written just before the last one closes may be lost with it.
        ended = False
        while time.monotonic() < deadline:
            if select.select([ours], [], [], 0.1)[0]:
                said += os.read(ours, 10_000)
            elif ended:  # and nothing came since
                break
            else:
                ended = process.poll() is not None
        assert process.wait(timeout=60) == 0
    finally:
        os.close(theirs)
        os.close(ours)
        process.kill()
        process.wait()
    screen.write(said.decode())
    assert screen.shown[-1] == "done"
    if term == "dumb":
        assert b"\x1b" not in said
        return
    assert screen.shown[:2] == ["0 of them are there, and more to say", "  than 40 columns hold"]
    assert (len(screen.shown), screen.wrapped, screen.cursor) == (7, False, True)
    assert rb"\x1b[2J\u202e" not in said  # only its end is shown
    assert rb"caf\xe9" in said
